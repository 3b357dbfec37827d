// Light or dark: as the system has it, unless the reader chose one of them here.

const KEY = "keytoll-theme";

/** The choices in the order that the button goes through them. */
export const THEMES = ["system", "light", "dark"];

export const theme = () => (THEMES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system");

/** Remember a choice and show it. */
export function chooseTheme(name) {
  localStorage.setItem(KEY, name);
  applyTheme();
}

/** Show the choice that is remembered. */
export function applyTheme() {
  document.documentElement.dataset.theme = theme();
}
