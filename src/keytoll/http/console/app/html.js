// What every component is written with: templates, hooks and the session.

import { Component, createContext, h } from "../vendor/preact.js";
import { useContext } from "../vendor/hooks.js";
import htm from "../vendor/htm.js";

export { render } from "../vendor/preact.js";
export { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";

export const html = htm.bind(h);

/** Who is signed in (`me`), what the deployment is like (`about`), and what the whole page can do (`say`, `signOut` …). */
export const Session = createContext(null);

export const useSession = () => useContext(Session);

/** Shows `failed` in place of what could not be drawn. */
export class Boundary extends Component {
  componentDidCatch(error) {
    console.error(error);
    this.setState({ error });
  }

  render({ children, failed }, { error }) {
    return error ? failed(error) : children;
  }
}
