"""The stages of a run, their order and what each depends on."""
