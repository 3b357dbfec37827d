// The address after the #: `#/organizations/acme/keys?status=active`. Filters live in it, so that Back and a link bring them back.

import { useEffect, useState } from "./html.js";

/** The parts of the path and the query of the address. */
export function current() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decoded), query: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address as it is now, followed. */
export function useRoute() {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    const follow = () => setRoute(current());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}

/** The query of the address, and how to change some of it without a step in the history. */
export function useQuery() {
  const { parts, query } = current();
  const change = (changes) => {
    const given = Object.entries({ ...query, ...changes }).filter(([, value]) => value);
    const text = new URLSearchParams(given).toString();
    history.replaceState(null, "", `#/${parts.map(encodeURIComponent).join("/")}${text && `?${text}`}`);
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  return [query, change];
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
