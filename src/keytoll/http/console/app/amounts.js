// Amounts are decimal strings, and stay exact: they are shown by Intl, which takes strings, and added as whole nano-units.

const DECIMALS = 9;
const formats = new Map();

/** An amount in the reader's way of writing money, with all of its decimals and two at least: `¥45.50`, `¥0.000172`. */
export function money(amount, currency) {
  return format(`exact ${currency}`, { ...style(currency), minimumFractionDigits: 2, maximumFractionDigits: 15 }).format(amount);
}

/** A plain number, for an axis only: three digits are enough there. */
export function roughMoney(number, currency) {
  return format(`rough ${currency}`, { ...style(currency), maximumSignificantDigits: 3, notation: "compact" }).format(number);
}

/** A whole number, grouped. */
export const count = (number) => format("count", {}).format(number);

/** The nano-units of an amount. */
export function nano(amount) {
  const [whole, fraction = ""] = amount.replace("-", "").split(".");
  const units = BigInt(whole + fraction.padEnd(DECIMALS, "0").slice(0, DECIMALS));
  return amount.startsWith("-") ? -units : units;
}

/** The exact sum of amounts. */
export function sum(amounts) {
  const total = amounts.reduce((found, amount) => found + nano(amount), 0n);
  const digits = (total < 0n ? -total : total).toString().padStart(DECIMALS + 1, "0");
  const fraction = digits.slice(-DECIMALS).replace(/0+$/, "").padEnd(2, "0");
  return `${total < 0n ? "-" : ""}${digits.slice(0, -DECIMALS)}.${fraction}`;
}

/** How much of `limit` is used, from 0 to 1, for a bar. A limit of 0 is used up. */
export function share(used, limit) {
  const whole = nano(limit);
  if (whole === 0n) return 1;
  return Math.min(1, Math.max(0, Number((nano(used) * 10_000n) / whole) / 10_000));
}

/** What is wrong with an amount that was typed in, or null. */
export function amountProblem(text) {
  if (!text) return "Enter an amount.";
  if (!/^\d{1,10}(\.\d{1,9})?$/.test(text)) return "Enter an amount such as 100 or 0.25: digits, a point, at most nine decimals.";
  return null;
}

/** How the currency is written, without an amount. */
export const symbol = (currency) =>
  format(`exact ${currency}`, { ...style(currency), minimumFractionDigits: 2, maximumFractionDigits: 15 })
    .formatToParts(0)
    .find((part) => part.type === "currency").value;

const style = (currency) => ({ style: "currency", currency, currencyDisplay: "narrowSymbol" });

function format(name, options) {
  if (!formats.has(name)) formats.set(name, new Intl.NumberFormat(undefined, options));
  return formats.get(name);
}
