"""The tabs of the page, one file each, and their order. To add one, see CONTRIBUTING.md."""

from s2l.ui.tab import Entry
from s2l.ui.tabs import classroom, compare, defend, extraction, finetune, membership, report, sp_set, story, target

TABS = (
    Entry("story", "See the leak", story.Story),
    Entry("target", "1 Target", target.Target),
    Entry("sp-set", "2 SP set", sp_set.SPSet),
    Entry("finetune", "3 Fine-tune", finetune.FineTune),
    Entry("attack", "4 Membership", membership.Membership),
    Entry("extraction", "5 Extraction", extraction.Extraction),
    Entry("compare", "6 Compare", compare.Compare),
    Entry("defend", "7 Defend", defend.Defend),
    Entry("report", "8 Report", report.Report),
    Entry("class", "Class", classroom.ClassPage),
)
