// Make a key. The whole key is shown this once.

import { post } from "./api.js";
import { html, useRef, useSession, useState } from "./html.js";
import { bodyOf, isBeside, KeyFields, NEW, problemsIn, problemsOf } from "./key-form.js";
import { Secret } from "./key-secret.js";
import { Dialog, Problem, Submit, useChange } from "./parts.js";

/** The form, and then the key. */
export function NewKey({ scope, onClose, onMade }) {
  const [made, setMade] = useState(null);
  if (made) return html`<${Secret} made=${made} title="Your new API key" onClose=${onClose} />`;
  const done = (key) => {
    setMade(key);
    onMade();
  };
  return html`<${Form} scope=${scope} onClose=${onClose} onMade=${done} />`;
}

function Form({ scope, onClose, onMade }) {
  const zone = useSession().about.billing_time_zone;
  const [form, setForm] = useState(NEW);
  const [problems, setProblems] = useState({});
  const { busy, error, run } = useChange();
  const once = useOnce();
  const submit = (event) => {
    event.preventDefault();
    const found = problemsOf(form, zone);
    setProblems(found);
    if (Object.keys(found).length) return;
    const body = bodyOf(form, zone);
    run(async () => onMade(await post(`/${scope.owner}/keys`, body, { once: once(body) })));
  };
  return html`
    <${Dialog} title="New API key" onClose=${onClose}>
      <form onSubmit=${submit} novalidate>
        <div class="body">
          <p class="lead">${scope.kind === "account" ? "For your own account." : html`For the organization <b>${scope.name}</b>.`}</p>
          <${KeyFields} form=${form} onChange=${setForm} problems=${{ ...problemsIn(error), ...problems }} />
          <${Problem} error=${isBeside(error) ? null : error} />
        </div>
        <footer>
          <button type="button" onClick=${onClose}>Cancel</button>
          <${Submit} busy=${busy}>Create<//>
        </footer>
      </form>
    <//>
  `;
}

/** An id for each different wish: who sends the same again, after an answer got lost, makes no second key. */
export function useOnce() {
  const last = useRef({ wish: null, id: null });
  return (body) => {
    const wish = JSON.stringify(body);
    if (last.current.wish !== wish) last.current = { wish, id: randomId() };
    return last.current.id;
  };
}

const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
