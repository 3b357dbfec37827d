// What the pages are made of: dialogs, fields, tables, tags, and the states that a list can be in.

import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "./html.js";
import { Icon } from "./icons.js";

/** What `load` gives, loaded again when one of `inputs` changes: `data` (the last one while reloading), `error`, `busy`, `reload`. */
export function useLoad(load, inputs) {
  const [state, setState] = useState({ data: null, error: null, busy: true });
  const [round, setRound] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    setState((before) => ({ ...before, busy: true }));
    load(abort.signal).then(
      (data) => abort.signal.aborted || setState({ data, error: null, busy: false }),
      (error) => abort.signal.aborted || setState({ data: null, error, busy: false }),
    );
    return () => abort.abort();
  }, [...inputs, round]);
  return { ...state, reload: () => setRound((before) => before + 1) };
}

/** Runs one change at a time: `run(change)`, whether it is `busy`, and the `error` of the last one. */
export function useChange() {
  const [state, setState] = useState({ busy: false, error: null });
  const run = async (change) => {
    if (state.busy) return;
    setState({ busy: true, error: null });
    try {
      await change();
      setState({ busy: false, error: null });
    } catch (error) {
      setState({ busy: false, error });
    }
  };
  return { ...state, run, clear: () => setState({ busy: false, error: null }) };
}

// ----------------------------------------------------------------------------------------------------------- dialogs

/** A dialog over the page. `kept` holds it open at Escape: what it shows can't be had again. */
export function Dialog({ title, onClose, kept = false, wide = false, children }) {
  const dialog = useRef(null);
  const leaving = useRef(false);
  const heading = useId();
  useLayoutEffect(() => {
    const shown = dialog.current;
    shown.showModal();
    return () => {
      leaving.current = true; // its close event comes later, and is not the reader's
      closed(shown);
    };
  }, []);
  const onCancel = (event) => {
    event.preventDefault();
    if (!kept) onClose();
  };
  return html`
    <dialog ref=${dialog} class=${wide ? "wide" : ""} aria-labelledby=${heading} closedby=${kept ? "none" : "closerequest"}
      onCancel=${onCancel} onClose=${() => leaving.current || onClose()}>
      <header>
        <h2 id=${heading}>${title}</h2>
        ${kept || html`<button type="button" class="quiet bare" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button>`}
      </header>
      ${children}
    </dialog>
  `;
}

/** Close a dialog that leaves the page, which gives the focus back; to the heading, if what opened it is gone. */
function closed(dialog) {
  if (dialog.open) dialog.close();
  requestAnimationFrame(focusHeadingIfNothing);
}

/** Put the focus on the page's heading if what had it is gone. */
export function focusHeadingIfNothing() {
  if (document.activeElement === document.body) document.querySelector("h1")?.focus();
}

/** A question before something is done. It stays open, with the reason, if that fails. */
export function Confirm({ title, action, danger = false, onClose, onConfirm, children }) {
  const { busy, error, run } = useChange();
  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      <form onSubmit=${(event) => (event.preventDefault(), run(onConfirm))}>
        <div class="body">${children}<${Problem} error=${error} /></div>
        <footer>
          <button type="button" onClick=${onClose}>Cancel</button>
          <${Submit} busy=${busy} danger=${danger}>${action}<//>
        </footer>
      </form>
    <//>
  `;
}

// -------------------------------------------------------------------------------------------------------------- forms

/** The button that sends a form. */
export const Submit = ({ busy, danger = false, children }) =>
  html`<button type="submit" class=${danger ? "danger" : "primary"} aria-disabled=${busy} aria-busy=${busy}>${children}</button>`;

/** A label, its control, a hint and what is wrong with it. `control` gets the attributes that tie them together. */
export function Field({ label, hint, problem, control }) {
  const id = useId();
  const described = [hint && `${id}-hint`, problem && `${id}-problem`].filter(Boolean).join(" ");
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${control({ id, "aria-describedby": described || undefined, "aria-invalid": problem ? "true" : undefined })}
      ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
      ${problem && html`<p class="problem" id=${`${id}-problem`}>${problem}</p>`}
    </div>
  `;
}

/** One of several, shown as radio buttons, side by side if `row`. `choices` are `[value, label, hint]`. */
export function Choice({ legend, value, choices, onChange, row = false }) {
  const name = useId();
  return html`
    <fieldset class=${row ? "choice row" : "choice"}>
      <legend>${legend}</legend>
      ${choices.map(
        ([each, label, hint]) => html`
          <label key=${each}>
            <input type="radio" name=${name} value=${each} checked=${value === each} onChange=${() => onChange(each)} />
            <span>${label}${hint && html`<small>${hint}</small>`}</span>
          </label>
        `,
      )}
    </fieldset>
  `;
}

/** A small menu of values: `choices` are `[value, label]`. */
export const Select = ({ label, value, choices, onChange }) => html`
  <label class="select">
    <span>${label}</span>
    <select value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${choices.map(([each, text]) => html`<option key=${each} value=${each} selected=${each === value}>${text}</option>`)}
    </select>
  </label>
`;

/** An error that concerns no single field. */
export const Problem = ({ error }) =>
  html`<div role="alert">${error && html`<p class="notice bad"><${Icon} name="warning" />${error.message ?? error}</p>`}</div>`;

/** A secret or an example, with a button that copies it. */
export function Copied({ text, label, block = false }) {
  const [copied, setCopied] = useState(false);
  const field = useRef(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      select(field.current); // without a clipboard, as over plain HTTP: what is selected can be copied by hand
      return;
    }
    setCopied(true);
  };
  return html`
    <div class=${block ? "copied block" : "copied"}>
      ${block ? html`<pre ref=${field} tabindex="0" aria-label=${label}><code>${text}</code></pre>` : html`<code ref=${field}>${text}</code>`}
      <button type="button" class=${copied ? "done" : ""} aria-label=${`Copy ${label}`} onClick=${copy}>
        <${Icon} name=${copied ? "done" : "copy"} />${copied ? "Copied" : "Copy"}
      </button>
      <span class="unseen" aria-live="polite">${copied ? "Copied to the clipboard" : ""}</span>
    </div>
  `;
}

function select(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
}

// -------------------------------------------------------------------------------------------------------------- lists

/** A table; on a phone each row is a card. `columns` are `{ name, cell, kind }`; `kind` is `number`, `actions` or none. */
export function Table({ caption, columns, rows, rowKey, foot = null, busy = false }) {
  // The roles are named, since a browser drops them from a table that is laid out as cards.
  return html`
    <table role="table" aria-busy=${busy}>
      <caption class="unseen">${caption}</caption>
      <thead role="rowgroup">
        <tr role="row">${columns.map(({ name, kind }) => html`<th key=${name} role="columnheader" scope="col" class=${kind}>${name}</th>`)}</tr>
      </thead>
      <tbody role="rowgroup">
        ${rows.map(
          (row) => html`
            <tr key=${rowKey(row)} role="row">
              ${columns.map(
                ({ name, cell, kind }) => html`
                  <td key=${name} role="cell" class=${kind}><span class="of" aria-hidden="true">${name}</span><div>${cell(row)}</div></td>
                `,
              )}
            </tr>
          `,
        )}
      </tbody>
      ${foot}
    </table>
  `;
}

/** What is loaded, or the state that it is in: loading, failed, or nothing there. */
export function Loaded({ of, empty, isEmpty = (data) => data.data.length === 0, children }) {
  if (of.error) return html`<${Failed} error=${of.error} again=${of.reload} />`;
  if (of.data === null) return html`<${Loading} />`;
  return isEmpty(of.data) ? empty : children(of.data);
}

/** A few grey lines, where a list is going to be. */
export const Loading = () => html`
  <div class="loading" role="status"><span class="unseen">Loading …</span>${[0, 1, 2, 3].map((line) => html`<i key=${line} />`)}</div>
`;

/** Why a list is not there, and a way to try again. */
export const Failed = ({ error, again }) => html`
  <div class="state" role="alert">
    <${Icon} name="warning" />
    <h2>That didn't work</h2>
    <p>${error.message}</p>
    <button type="button" onClick=${again}>Try again</button>
  </div>
`;

/** What to say where there is nothing yet. */
export const Empty = ({ icon, title, children }) => html`
  <div class="state"><${Icon} name=${icon} /><h2>${title}</h2>${children}</div>
`;

/** A word on a row. `kind` is `good`, `warn`, `bad` or none. */
export const Tag = ({ kind = "", children }) => html`<span class=${`tag ${kind}`}>${children}</span>`;

/** The cursors of a list's pages: where it is, and how to step. A change of `inputs` leads to the first page again. */
export function usePages(inputs) {
  const now = JSON.stringify(inputs);
  const [state, setState] = useState({ of: now, cursors: [null] });
  const cursors = state.of === now ? state.cursors : [null];
  return {
    after: cursors.at(-1),
    number: cursors.length,
    forward: (next) => setState({ of: now, cursors: [...cursors, next] }),
    back: () => setState({ of: now, cursors: cursors.slice(0, -1) }),
  };
}

/** The buttons below a list that is longer than a page. */
export function Pager({ pages, next }) {
  if (next === null && pages.number === 1) return null;
  return html`
    <nav class="pager" aria-label="Pages">
      <button type="button" disabled=${pages.number === 1} onClick=${pages.back}><${Icon} name="previous" />Previous</button>
      <span aria-live="polite">Page ${pages.number}</span>
      <button type="button" disabled=${next === null} onClick=${() => pages.forward(next)}>Next<${Icon} name="next" /></button>
    </nav>
  `;
}
