// Edit a key: what would change is shown before it does.

import { patch } from "./api.js";
import { html, useSession, useState } from "./html.js";
import { changesOf, formOf, isBeside, KeyFields, problemsIn, problemsOf } from "./key-form.js";
import { Dialog, Problem, Submit, useChange } from "./parts.js";
import { inZone } from "./times.js";

/** The form, then the effects that the API foretells, then the change. */
export function EditKey({ api_key: key, onClose, onDone }) {
  const { about, say } = useSession();
  const zone = about.billing_time_zone;
  const [begun] = useState(() => formOf(key, zone));
  const [form, setForm] = useState(begun);
  const [problems, setProblems] = useState({});
  const [preview, setPreview] = useState(null);
  const { busy, error, run, clear } = useChange();
  const review = () => {
    const changes = changesOf(form, begun, zone);
    const found = only(problemsOf(form, zone), changes);
    setProblems(found);
    if (Object.keys(found).length) return;
    run(async () => setPreview({ ...(await patch(`/keys/${key.id}`, changes, { dry_run: "true" })), changes }));
  };
  const apply = () =>
    run(async () => {
      await patch(`/keys/${key.id}`, preview.changes);
      say(`${preview.after.name} is changed.`);
      onClose();
      onDone();
    });
  const back = () => {
    setPreview(null);
    clear();
  };
  const submit = (event) => {
    event.preventDefault();
    if (preview) apply();
    else review();
  };
  return html`
    <${Dialog} title=${preview ? "Apply these changes?" : "Edit API key"} onClose=${onClose}>
      <form onSubmit=${submit} novalidate>
        <div class="body">
          ${preview
            ? html`<${Effects} preview=${preview} zone=${zone} />`
            : html`<${KeyFields} form=${form} onChange=${setForm} problems=${{ ...problemsIn(error), ...problems }} />`}
          <${Problem} error=${!preview && isBeside(error) ? null : error} />
        </div>
        <footer>
          ${preview
            ? html`<button key="back" type="button" onClick=${back}>Back</button>`
            : html`<button key="cancel" type="button" onClick=${onClose}>Cancel</button>`}
          <${Submit} busy=${busy}>${preview ? "Apply changes" : "Review changes"}<//>
        </footer>
      </form>
    <//>
  `;
}

const Effects = ({ preview, zone }) => html`
  <div role="status">
    <p><b>${preview.before.name}</b> <code class="masked">${preview.before.masked_key}</code></p>
    <ul class="effects">${preview.effects.map((effect) => html`<li key=${effect}>${effect}</li>`)}</ul>
    <p class="hint">As things stand at ${inZone(preview.from, zone)}. Nothing is changed yet.</p>
  </div>
`;

/** The problems of the fields that were changed: an expiry that has passed since must not keep a key from getting another name. */
function only(problems, changes) {
  return Object.fromEntries(Object.entries(problems).filter(([field]) => field.split(".")[0] in changes));
}
