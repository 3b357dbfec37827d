// The head of a page: whose it is, what it is, and what can be done there.

import { html } from "./html.js";

/** `children` are the page's buttons. */
export const Heading = ({ scope, title, lead, children }) => html`
  <header class="heading">
    <div>
      <p class="eyebrow">${scope ? html`${scope.label}<span> · ${scope.name}</span>` : "Keytoll"}</p>
      <h1 tabindex="-1">${title}</h1>
      ${lead && html`<p class="lead">${lead}</p>`}
    </div>
    <div class="buttons">${children}</div>
  </header>
`;
