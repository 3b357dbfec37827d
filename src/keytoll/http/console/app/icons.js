// Icons: drawn with one stroke, decoration only; whoever uses one gives the words.

import { html } from "./html.js";

const PATHS = {
  add: "M8 3v10M3 8h10",
  close: "M4 4l8 8M12 4l-8 8",
  copy: "M6 6h7v7H6zM3 10V3h7",
  done: "M3 8.5l3.2 3.2L13 5",
  edit: "M3 13l.6-2.8 7.2-7.2 2.2 2.2-7.2 7.2zM9.2 4.6l2.2 2.2",
  rotate: "M13 8a5 5 0 0 1-9 3M3 8a5 5 0 0 1 9-3M12.4 2.4V5H9.8M3.6 13.6V11h2.6",
  pause: "M6 3.5v9M10 3.5v9",
  resume: "M5 3.2v9.6L12.4 8z",
  trash: "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.6 8.5h5.8l.6-8.5M7 7v3.8M9 7v3.8",
  menu: "M2.5 4.5h11M2.5 8h11M2.5 11.5h11",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.4 10.4L13.5 13.5",
  sun: "M8 10.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6zM8 1.5v1.4M8 13.1v1.4M1.5 8h1.4M13.1 8h1.4M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1",
  moon: "M13 9.6A5.6 5.6 0 0 1 6.4 3 5.6 5.6 0 1 0 13 9.6z",
  screen: "M2.5 3h11v7.5h-11zM6 13.5h4M8 10.5v3",
  download: "M8 2.5v7.5M4.8 7L8 10.2 11.2 7M3 13h10",
  next: "M6 3.5L10.5 8 6 12.5",
  previous: "M10 3.5L5.5 8l4.5 4.5",
  key: "M5.2 11.6a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6zM7.6 7.4L13.5 3.8M10.6 5.6l1.2 2",
  usage: "M3 13V8.5M6.4 13V5M9.7 13V7M13 13V3",
  charges: "M4 2.5h8v11l-2-1.3-2 1.3-2-1.3-2 1.3zM6.2 5.8h3.6M6.2 8.6h3.6",
  members: "M6 7.5a2.3 2.3 0 1 0 0-4.6 2.3 2.3 0 0 0 0 4.6zM2 13c0-2.3 1.7-3.8 4-3.8s4 1.5 4 3.8M10.6 3.1a2.2 2.2 0 0 1 0 4.2M11.6 9.5c1.5.5 2.4 1.8 2.4 3.5",
  token: "M3 4h10v8H3zM5.5 8h.1M8 8h.1M10.5 8h.1",
  audit: "M5.5 3.5h8M5.5 8h8M5.5 12.5h8M2.5 3.5h.1M2.5 8h.1M2.5 12.5h.1",
  help: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM6.3 6.4c0-1 .7-1.7 1.7-1.7s1.7.6 1.7 1.6c0 1.2-1.7 1.4-1.7 2.7M8 11.3h.1",
  leave: "M9.5 3H3.5v10h6M7 8h6.5M11 5.5L13.5 8 11 10.5",
  warning: "M8 2.5L14.2 13.2H1.8zM8 6.5v3.2M8 11.5h.1",
};

/** One of the icons above. */
export const Icon = ({ name }) =>
  html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`;

/** Keytoll's mark: a key, raised like a toll bar. */
export const Mark = () => html`<img class="mark" src="/console/logo.svg" alt="" width="32" height="32" />`;
