// One charge, with its sum line by line.

import { count, money } from "./amounts.js";
import { get } from "./api.js";
import { html, useSession } from "./html.js";
import { Dialog, Failed, Loading, useLoad } from "./parts.js";
import { Time } from "./times.js";

const ITEMS = {
  input: "Input",
  cached_input: "Cached input",
  cache_write: "Cache write",
  output: "Output",
  audio_input: "Audio in",
  audio_output: "Audio out",
  request: "The request itself",
};
const SOURCES = { request_bytes: "bytes of the request", answer_bytes: "bytes of the answer", events: "events of the stream" };

/** A dialog that shows how the amount comes about. */
export function Explanation({ charge, onClose }) {
  const found = useLoad((signal) => get(`/charges/${charge.id}`, {}, signal), [charge.id]);
  return html`
    <${Dialog} title="How this charge comes about" onClose=${onClose} wide>
      <div class="body">
        ${found.error && html`<${Failed} error=${found.error} again=${found.reload} />`}
        ${found.data === null && !found.error && html`<${Loading} />`}
        ${found.data && html`<${Facts} charge=${found.data} name=${charge.key_name} /><${Sum} charge=${found.data} />`}
      </div>
      <footer><button type="button" class="primary" onClick=${onClose}>Close</button></footer>
    <//>
  `;
}

function Facts({ charge, name }) {
  const { currency, billing_time_zone: zone } = useSession().about;
  const facts = [
    ["Key", name ?? charge.key_id],
    ["Model", html`${charge.model} <small>${charge.endpoint}</small>`],
    ["Admitted", html`<${Time} at=${charge.admitted_at} zone=${zone} />`],
    ["Price since", charge.price_from ? html`<${Time} at=${charge.price_from} zone=${zone} />` : "the model's first price"],
    ["Answer", `${charge.status}${charge.attempts > 1 ? ` after ${charge.attempts} attempts` : ""}`],
    ["Held for it", charge.hold === null ? "all that was left" : money(charge.hold, currency)],
    ["Charge", html`<code>${charge.id}</code>`],
  ];
  return html`<dl class="facts">${facts.map(([term, text]) => html`<div key=${term}><dt>${term}</dt><dd>${text}</dd></div>`)}</dl>`;
}

function Sum({ charge }) {
  const { currency } = useSession().about;
  if (!charge.served) return html`<p class="notice">No backend worked on this request, so it costs nothing.</p>`;
  const lines = charge.lines.filter(({ count: number, price }) => number > 0 && (number > 1 || !/^0(\.0*)?$/.test(price)));
  return html`
    <table class="sum">
      <caption class="unseen">The sum, line by line</caption>
      <thead><tr><th scope="col">Item</th><th scope="col">Count</th><th scope="col">Price</th><th scope="col">Product</th></tr></thead>
      <tbody>
        ${lines.map(
          (line) => html`
            <tr key=${line.item}>
              <th scope="row">${ITEMS[line.item] ?? line.item}</th>
              <td>${count(line.count)}</td>
              <td>${money(line.price, currency)}${line.per > 1 && html`<small>for ${count(line.per)}</small>`}</td>
              <td>${money(line.product, currency)}</td>
            </tr>
          `,
        )}
      </tbody>
      <tfoot>
        <tr><th scope="row" colspan="3">Exact sum</th><td>${money(charge.sum, currency)}</td></tr>
        ${!/^-?0(\.0*)?$/.test(charge.rounding) && html`<tr><th scope="row" colspan="3">Rounded to a billionth, half to even</th><td>${money(charge.rounding, currency)}</td></tr>`}
        <tr class="total"><th scope="row" colspan="3">Charged</th><td>${money(charge.amount, currency)}</td></tr>
      </tfoot>
    </table>
    <${Notes} charge=${charge} currency=${currency} />
  `;
}

const Notes = ({ charge, currency }) => html`
  ${charge.estimates.map(
    ({ item, source, count: number, rate, tokens }) => html`
      <p key=${item} class="hint">
        ${ITEMS[item] ?? item} is estimated: ${count(number)} ${SOURCES[source] ?? source} × ${rate} = ${count(tokens)} tokens, rounded up.
      </p>
    `,
  )}
  ${charge.capped && html`<p class="hint">The estimate came to ${money(charge.rounded, currency)}, and was cut to what was held.</p>`}
  ${charge.reasoning_tokens > 0 && html`<p class="hint">Of the output, ${count(charge.reasoning_tokens)} tokens are reasoning.</p>`}
  ${!charge.adds_up && html`<p class="notice bad">The amount is not what this sum comes to. Tell the operator of this gateway.</p>`}
`;
