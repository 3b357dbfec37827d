// As much of Markdown as the guide uses: headings, paragraphs, lists, tables, code, links, and stress.

import { html } from "./html.js";
import { Copied } from "./parts.js";

/** The text as elements. Its first heading is left out, since the page has its own. */
export const Markdown = ({ text }) => blocksOf(text.replace(/^# .*\n/, "").split("\n"));

function blocksOf(lines) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    const reader = READERS.find(({ starts }) => starts.test(lines[at]));
    const end = endOf(lines, at, reader);
    blocks.push(reader.show(lines.slice(at, end)));
    at = end;
  }
  return blocks;
}

const READERS = [
  { starts: /^\s*$/, goesOn: /^\s*$/, show: () => null },
  { starts: /^```/, ends: /^```\s*$/, show: code },
  { starts: /^#{2,4} /, goesOn: /(?!)/, show: heading },
  { starts: /^\|/, goesOn: /^\|/, show: table },
  { starts: /^- /, goesOn: /^(- |  )/, show: (lines) => html`<ul>${items(lines)}</ul>` },
  { starts: /^\d+\. /, goesOn: /^(\d+\. |   )/, show: (lines) => html`<ol>${items(lines)}</ol>` },
  { starts: /^> /, goesOn: /^>/, show: (lines) => html`<p class="notice">${inline(lines.map((line) => line.replace(/^> ?/, "")).join(" "))}</p>` },
  { starts: /./, goesOn: /^[^\s#|`>-]/, show: (lines) => html`<p>${inline(lines.join(" "))}</p>` },
];

function endOf(lines, start, { goesOn, ends }) {
  let at = start + 1;
  if (ends) {
    while (at < lines.length && !ends.test(lines[at])) at += 1;
    return at + 1;
  }
  while (at < lines.length && goesOn.test(lines[at])) at += 1;
  return at;
}

function code(lines) {
  const text = lines.slice(1).filter((line) => !/^```/.test(line));
  return html`<${Copied} block label="example" text=${text.join("\n")} />`;
}

function heading([line]) {
  const [, marks, text] = /^(#+) (.*)$/.exec(line);
  return marks.length === 2 ? html`<h2>${inline(text)}</h2>` : html`<h3>${inline(text)}</h3>`;
}

function items(lines) {
  const texts = [];
  for (const line of lines) {
    const item = /^(?:- |\d+\. )(.*)$/.exec(line);
    if (item) texts.push(item[1]);
    else texts[texts.length - 1] += ` ${line.trim()}`;
  }
  return texts.map((text) => html`<li>${inline(text)}</li>`);
}

function table([head, , ...rows]) {
  const cells = (row) => row.slice(1, row.lastIndexOf("|")).split("|").map((cell) => cell.trim());
  return html`
    <div class="scrolled" tabindex="0" role="region" aria-label="Table">
      <table>
        <thead><tr>${cells(head).map((cell) => html`<th scope="col">${inline(cell)}</th>`)}</tr></thead>
        <tbody>${rows.map((row) => html`<tr>${cells(row).map((cell) => html`<td>${inline(cell)}</td>`)}</tr>`)}</tbody>
      </table>
    </div>
  `;
}

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|\[([^\]]+)\]\(([^)\s]+)\)/g;

/** Text with its code, stress and links. */
function inline(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(at, match.index), stressed(match));
    at = match.index + match[0].length;
  }
  return [...parts, text.slice(at)];
}

function stressed([, codeText, strong, weak, label, url]) {
  if (codeText) return html`<code>${codeText}</code>`;
  if (strong) return html`<strong>${inline(strong)}</strong>`;
  if (weak) return html`<em>${inline(weak)}</em>`;
  return /^(https?:|#|\/)/.test(url) ? html`<a href=${url}>${label}</a>` : label;
}
