"""One calm look, light and dark. No font or script comes from elsewhere: the page works offline."""

from __future__ import annotations

import gradio as gr

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Slate and teal on gradio's own system."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.slate,
        text_size=gr.themes.sizes.text_md,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="#f7f8fa",
        body_background_fill_dark="#0f1318",
        block_background_fill="#ffffff",
        block_background_fill_dark="#171c23",
        block_border_color="#dfe4ea",
        block_border_color_dark="#2b323d",
        block_label_text_color="#45505f",
        block_label_text_color_dark="#c3cad4",
        body_text_color="#1b222c",
        body_text_color_dark="#eef1f5",
        body_text_color_subdued="#5c6675",
        body_text_color_subdued_dark="#a5afbd",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#0d9488",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        link_text_color="#0f766e",
        link_text_color_dark="#5eead4",
    )


CSS = """
.gradio-container { width: 100% !important; min-width: 0 !important; }
.gradio-container > .main { max-width: 1180px !important; width: 100%; margin: 0 auto; box-sizing: border-box; }
.gradio-container main, .gradio-container .tabs { width: 100%; min-width: 0; }
.html-container { padding: 0 !important; }
.block:has(> .html-container > .prose:empty) { display: none; }
.s2l-head h1 { margin: 0 0 .2rem; font-size: 1.7rem; }
.s2l-head p { margin: 0; color: var(--body-text-color-subdued); max-width: 75ch; }
.s2l-head p.s2l-note { border-left: 4px solid #c8501e; padding: .35rem .8rem; margin: .6rem 0 0;
  background: var(--background-fill-secondary); font-size: .92rem; }
.s2l-lead p { max-width: 78ch; line-height: 1.55; }
.s2l h3 { margin: 1.1rem 0 .35rem; font-size: 1.05rem; }
.s2l p { margin: .35rem 0; line-height: 1.5; }
.s2l .quiet { color: var(--body-text-color-subdued); font-size: .9rem; }
.s2l mark { background: #fde68a; color: #1b222c; padding: 0 .25em; border-radius: 3px;
  text-decoration: underline wavy #b45309 1px; text-underline-offset: 3px; }
.s2l .card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: .7rem .9rem;
  background: var(--block-background-fill); }
.s2l .cards { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.s2l .pics { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); }
.s2l .two { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.s2l .three { display: grid; gap: .5rem; grid-template-columns: repeat(3, 1fr); }
.s2l figure { margin: 0; min-width: 0; }
.s2l figure img { width: 100%; aspect-ratio: 1; border-radius: 6px; display: block; margin: 0; }
.s2l figcaption { font-size: .8rem; line-height: 1.3; margin-top: .2rem; color: var(--body-text-color-subdued);
  overflow-wrap: anywhere; }
.s2l figure.hit img { outline: 4px solid #c8501e; outline-offset: -1px; }
.s2l figure.hit figcaption { color: var(--body-text-color); }
.s2l .narrow { max-width: 640px; }
.s2l .drawing img { width: 100%; height: auto; border-radius: 8px; display: block; margin: 0; }
.dark .only-light, .only-dark { display: none !important; }
.dark .only-dark { display: block !important; }
.s2l .verdict { font-size: 1.08rem; line-height: 1.5; max-width: 85ch; margin: .5rem 0; padding-left: .8rem;
  border-left: 4px solid var(--border-color-primary); }
.s2l .verdict b { display: block; }
.s2l .verdict.up { border-color: #c8501e; } .s2l .verdict.down { border-color: #2a7f76; }
.s2l .scroll { overflow-x: auto; }
.s2l table, .s2l table tr { border: 0; }
.s2l table { border-collapse: collapse; font-size: .92rem; width: 100%; }
.s2l table th, .s2l table td { text-align: left; padding: .3rem .8rem .3rem 0; border: 0;
  border-bottom: 1px solid var(--border-color-primary); vertical-align: top; }
.s2l .bar { height: 12px; border-radius: 6px; background: var(--border-color-primary); overflow: hidden; }
.s2l .bar > div { height: 100%; background: #0f766e; transition: width .4s; }
.dark .s2l .bar > div { background: #2dd4bf; }
.s2l .steps { display: flex; flex-wrap: wrap; gap: .3rem .9rem; list-style: none; padding: 0; margin: .5rem 0; }
.s2l .steps li { margin: 0; padding: 0; font-size: .9rem; color: var(--body-text-color-subdued); }
.s2l .steps li::before { content: "○ "; } .s2l .steps li.done::before { content: "✓ "; }
.s2l .steps li.running { color: var(--body-text-color); font-weight: 650; }
.s2l .steps li.running::before { content: "▶ "; }
.s2l .state { font-weight: 650; }
.s2l svg text { fill: currentColor; font-size: 13px; }
.s2l pre { white-space: pre-wrap; font-size: .8rem; margin: 0; }
.s2l .people { display: grid; gap: .45rem; grid-template-columns: repeat(auto-fill, minmax(82px, 1fr)); padding: 4px;
  align-items: start; }
.s2l .people button { border: 0; border-radius: 8px; padding: 4px; background: none; cursor: pointer;
  color: var(--body-text-color); font: inherit; font-size: .78rem; line-height: 1.2; }
.s2l .people button:hover { background: var(--border-color-primary); }
.s2l .people button:focus-visible { outline: 3px solid #c8501e; }
.s2l .people img { width: 100%; aspect-ratio: 1; border-radius: 6px; display: block; margin: 0 0 .2rem; }
#run { min-height: 3rem; }
footer { opacity: .8; }
@media (max-width: 480px) {
  .s2l-head h1 { font-size: 1.35rem; }
  .gradio-container > .main { padding: .6rem !important; }
  #tabs .tab-container button { padding-left: .45rem; padding-right: .45rem; font-size: .88rem; }
  .s2l .people { grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)); max-height: 20rem; overflow-y: auto; }
  .s2l .pics { grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)); }
}
"""
