// Helpers of the figures that are drawn in the browser (html.script): texts come as text, not as HTML.
const part = (name) => element.querySelector(`[data-${name}]`);

function add(parent, tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
