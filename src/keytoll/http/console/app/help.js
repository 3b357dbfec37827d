// The owners' guide, as it is in the project's documentation.

import { ApiError } from "./api.js";
import { Heading } from "./heading.js";
import { html } from "./html.js";
import { Markdown } from "./markdown.js";
import { Failed, Loading, useLoad } from "./parts.js";

/** The guide, read from the file that is served beside the console. */
export function Help({ title }) {
  const guide = useLoad(read, []);
  return html`
    <${Heading} scope=${null} title=${title} lead="API keys: what they are, how to make them, what they may spend." />
    ${guide.error && html`<${Failed} error=${guide.error} again=${guide.reload} />`}
    ${guide.data === null && !guide.error && html`<${Loading} />`}
    ${guide.data && html`<article class="guide"><${Markdown} text=${guide.data} /></article>`}
  `;
}

async function read(signal) {
  const response = await fetch("/console/owners-guide.md", { signal });
  if (!response.ok) throw new ApiError("The guide could not be read.");
  return response.text();
}
