// Spending over days as stacked bars, drawn as SVG. What it shows is in a table as well.

import { money, nano, roughMoney } from "./amounts.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { day } from "./times.js";

const HEIGHT = 260;
const EDGE = { top: 12, right: 4, bottom: 26, left: 62 };
const LABEL_PX = 74;

/** `days` are calendar days; `series` are `{ name, amounts, index }`, with an amount for each day (`"0"` for none). */
export function Chart({ label, days, series, totals, currency }) {
  const figure = useRef(null);
  const width = useWidth(figure);
  const [pointed, setPointed] = useState(null);
  const top = niceTop(Math.max(...totals.map(rough)));
  const plot = { width: Math.max(0, width - EDGE.left - EDGE.right), height: HEIGHT - EDGE.top - EDGE.bottom };
  const x = (index) => EDGE.left + (plot.width / days.length) * index;
  const y = (value) => EDGE.top + plot.height * (1 - value / top);
  return html`
    <figure class="chart" ref=${figure} onPointerLeave=${() => setPointed(null)}>
      <${Legend} series=${series} pointed=${pointed} currency=${currency} />
      <p class="pointed" aria-hidden="true">${pointed === null ? "" : html`${day(days[pointed])} · <b>${money(totals[pointed], currency)}</b>`}</p>
      ${width > 0 &&
      html`
        <svg role="img" aria-label=${label} width=${width} height=${HEIGHT} viewBox=${`0 0 ${width} ${HEIGHT}`}>
          <${Grid} top=${top} y=${y} width=${width} currency=${currency} />
          <${Bars} series=${series} x=${x} y=${y} step=${plot.width / days.length} pointed=${pointed} />
          <${Days} days=${days} x=${x} step=${plot.width / days.length} width=${plot.width} />
          ${days.map(
            (each, index) => html`
              <rect key=${each} class="catch" x=${x(index)} y=${EDGE.top} width=${plot.width / days.length} height=${plot.height}
                onPointerEnter=${() => setPointed(index)} onPointerDown=${() => setPointed(index)} />
            `,
          )}
        </svg>
      `}
    </figure>
  `;
}

const Legend = ({ series, pointed, currency }) => html`
  <ul class="legend" aria-hidden="true">
    ${series.map(
      ({ name, amounts, index }) => html`
        <li key=${name}>
          <svg viewBox="0 0 10 10"><rect class=${`series-${index}`} width="10" height="10" rx="2.5" /></svg>
          <span>${name}</span>${pointed !== null && html`<b>${money(amounts[pointed], currency)}</b>`}
        </li>
      `,
    )}
  </ul>
`;

const Grid = ({ top, y, width, currency }) => html`
  <g class="grid">
    ${[0, 0.25, 0.5, 0.75, 1].map(
      (part) => html`
        <g key=${part}>
          <line x1=${EDGE.left} x2=${width - EDGE.right} y1=${y(top * part)} y2=${y(top * part)} />
          <text x=${EDGE.left - 10} y=${y(top * part) + 4} text-anchor="end">${roughMoney(top * part, currency)}</text>
        </g>
      `,
    )}
  </g>
`;

function Bars({ series, x, y, step, pointed }) {
  const width = Math.max(1, Math.min(step * 0.72, 40));
  const count = series[0]?.amounts.length ?? 0;
  const stacks = Array.from({ length: count }, (_, at) => stack(series, at));
  return stacks.map(
    (parts, at) => html`
      <g key=${at} class=${pointed === null || pointed === at ? "" : "faded"}>
        ${parts.map(
          ({ index, from, to }) => html`
            <rect key=${index} class=${`series-${index}`} x=${x(at) + (step - width) / 2} width=${width} y=${y(to)}
              height=${Math.max(y(from) - y(to), to > from ? 1 : 0)} rx=${Math.min(2, width / 4)} />
          `,
        )}
      </g>
    `,
  );
}

function stack(series, at) {
  let from = 0;
  return series.map(({ index, amounts }) => {
    const part = { index, from, to: from + rough(amounts[at]) };
    from = part.to;
    return part;
  });
}

function Days({ days, x, step, width }) {
  const every = Math.max(1, Math.ceil(days.length / Math.max(1, Math.floor(width / LABEL_PX))));
  const shown = days.map((each, index) => [each, index]).filter(([, index]) => index % every === 0);
  return html`
    <g class="days">
      ${shown.map(
        ([each, index]) => html`
          <text key=${each} x=${x(index) + step / 2} y=${HEIGHT - 6} text-anchor="middle">${day(each, { day: "numeric", month: "short" })}</text>
        `,
      )}
    </g>
  `;
}

/** A round number at or above the largest bar, so that the grid's quarters are round as well. */
function niceTop(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 8, 10].find((factor) => factor * power >= most) * power;
}

/** For drawing only: a pixel has no nano-units. */
const rough = (amount) => Number(nano(amount)) / 1e9;

function useWidth(element) {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    // In the next frame: what is drawn anew within this one would be observed again.
    const follow = ([{ contentRect }]) => requestAnimationFrame(() => setWidth(Math.floor(contentRect.width)));
    const observer = new ResizeObserver(follow);
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return width;
}
