// The one access token of a person: what signs in here and calls the management API.

import { get, post, remove, signIn } from "./api.js";
import { Heading } from "./heading.js";
import { html, useSession, useState } from "./html.js";
import { Icon } from "./icons.js";
import { Confirm, Copied, Dialog, Failed, Loading, useLoad } from "./parts.js";
import { Time } from "./times.js";

/** The token as it may be shown, and how to replace it. */
export function AccessToken({ scope, title }) {
  const { about } = useSession();
  const [open, setOpen] = useState(null);
  const found = useLoad((signal) => get(`/${scope.owner}/access-token`, {}, signal), [scope.owner]);
  const close = () => setOpen(null);
  return html`
    <${Heading} scope=${scope} title=${title} lead="It signs you in here, and calls the management API. It can't call models." />
    ${found.error && html`<${Failed} error=${found.error} again=${found.reload} />`}
    ${found.data === null && !found.error && html`<${Loading} />`}
    ${found.data &&
    html`
      <section class="panel token" aria-label="Your access token">
        <div>
          <code class="masked large">${found.data.masked_token}</code>
          <p class="hint">Made on <${Time} at=${found.data.created_at} zone=${about.billing_time_zone} />. You have one at a time.</p>
        </div>
        <div class="buttons">
          <button type="button" onClick=${() => setOpen("revoke")}>Revoke</button>
          <button type="button" class="primary" onClick=${() => setOpen("reset")}><${Icon} name="rotate" />Reset</button>
        </div>
      </section>
      <${Use} />
    `}
    ${open === "reset" && html`<${Reset} scope=${scope} onClose=${close} onDone=${found.reload} />`}
    ${open === "revoke" && html`<${Revoke} scope=${scope} onClose=${close} />`}
  `;
}

const Use = () => html`
  <section class="panel" aria-label="How to use it">
    <h2>From a program</h2>
    <p>Send it as a Bearer token. This lists your organizations and tells who you are:</p>
    <${Copied} block label="example" text=${`curl ${location.origin}/api/v1/me -H "Authorization: Bearer gw-at-…"`} />
    <p class="hint">The whole API is described by <a href="/api/v1/openapi.json">its OpenAPI document</a>.</p>
  </section>
`;

function Reset({ scope, onClose, onDone }) {
  const [made, setMade] = useState(null);
  const reset = async () => {
    const token = await post(`/${scope.owner}/access-token/reset`);
    // The session rests on the old token, so it is renewed; if that fails, the new one is shown all the same.
    await signIn(token.secret).catch(() => {});
    setMade(token);
    onDone();
  };
  if (made) return html`<${Shown} made=${made} onClose=${onClose} />`;
  return html`
    <${Confirm} title="Reset your access token?" action="Reset" danger onClose=${onClose} onConfirm=${reset}>
      <p>The one you have stops working at once, in every program and browser but this one. Your API keys go on working.</p>
    <//>
  `;
}

const Shown = ({ made, onClose }) => html`
  <${Dialog} title="Your new access token" onClose=${onClose} kept>
    <div class="body">
      <p class="notice warn"><${Icon} name="warning" />Copy it now and keep it safe. When you close this, it can't be shown again.</p>
      <${Copied} text=${made.secret} label="access token" />
    </div>
    <footer><button type="button" class="primary" onClick=${onClose}>I have saved it</button></footer>
  <//>
`;

function Revoke({ scope, onClose }) {
  const { signOut } = useSession();
  const revoke = async () => {
    await remove(`/${scope.owner}/access-token`);
    await signOut();
  };
  return html`
    <${Confirm} title="Revoke your access token?" action="Revoke" danger onClose=${onClose} onConfirm=${revoke}>
      <p>It stops working at once, and you are signed out. Only the operator of this gateway can give you another one.</p>
      <p>Your API keys go on working.</p>
    <//>
  `;
}
