// Give a key another secret.

import { post } from "./api.js";
import { html, useSession, useState } from "./html.js";
import { Secret } from "./key-secret.js";
import { useOnce } from "./key-new.js";
import { Choice, Confirm } from "./parts.js";
import { Time } from "./times.js";

const HOUR_MS = 3_600_000;
const GRACES = [
  ["0", "Stop the old secret at once", "If it leaked, or nothing uses it"],
  ["1", "Let it work for another hour"],
  ["24", "Let it work for another day", "Time to bring the new one to your programs"],
  ["168", "Let it work for another week"],
];

/** The question what becomes of the old secret, and then the new one. */
export function RotateKey({ api_key: key, onClose, onDone }) {
  const zone = useSession().about.billing_time_zone;
  const [hours, setHours] = useState("24");
  const [begunMs] = useState(Date.now); // so that a repeated attempt asks for the same
  const [made, setMade] = useState(null);
  const once = useOnce();
  if (made) return html`<${Secret} made=${made} title="The new secret of your API key" onClose=${onClose} />`;
  const rotate = async () => {
    const until = hours === "0" ? null : new Date(begunMs + Number(hours) * HOUR_MS).toISOString();
    setMade(await post(`/keys/${key.id}/rotate`, { old_valid_until: until }, { once: once(hours) }));
    onDone();
  };
  return html`
    <${Confirm} title="Rotate this key?" action="Rotate" onClose=${onClose} onConfirm=${rotate}>
      <p><b>${key.name}</b> <code class="masked">${key.masked_key}</code></p>
      <p>It gets a new secret. Its name, quota and charges stay.</p>
      <${Choice} legend="The old secret" value=${hours} choices=${GRACES} onChange=${setHours} />
      ${key.old_valid_until && html`<p class="notice">The secret before this one works until <${Time} at=${key.old_valid_until} zone=${zone} />. It stops now: two live at most.</p>`}
    <//>
  `;
}
