// Which page an address leads to, and what its owner is.

import { AccessToken } from "./access-token.js";
import { Audit } from "./audit.js";
import { Charges } from "./charges.js";
import { Help } from "./help.js";
import { Keys } from "./keys.js";
import { Members } from "./members.js";
import { Usage } from "./usage.js";

const KEYS = { path: "keys", title: "API Keys", icon: "key", show: Keys };
const USAGE = { path: "usage", title: "Usage", icon: "usage", show: Usage };
const CHARGES = { path: "charges", title: "Charges", icon: "charges", show: Charges };
const MEMBERS = { path: "members", title: "Members", icon: "members", show: Members };
const TOKEN = { path: "access-token", title: "Access Token", icon: "token", show: AccessToken };
const AUDIT = { path: "audit", title: "Audit Log", icon: "audit", show: Audit };

/** The page that explains it all. */
export const HELP = { path: "help", title: "Help", icon: "help", show: Help };

/** The pages of a scope, in the order of the menu. */
export function pagesOf(scope) {
  if (scope.kind === "account") return [KEYS, USAGE, CHARGES, TOKEN, AUDIT];
  return [KEYS, USAGE, CHARGES, MEMBERS, ...(scope.manages ? [AUDIT] : [])];
}

/** A person's own account. */
export const account = (me) => ({ kind: "account", label: "Account", name: me.name, owner: me.owner, path: "account", manages: true });

/** An organization that a person belongs to. */
export const organization = ({ name, owner, role }) => ({
  kind: "organization",
  label: "Organization",
  name,
  owner,
  path: `organizations/${encodeURIComponent(name)}`,
  manages: role === "admin",
});

/** The page at an address; whatever leads nowhere leads to one's own keys. */
export function pageOf([first, ...rest], me) {
  if (first === HELP.path) return { ...HELP, scope: null };
  const scope = scopeOf(first, rest, me);
  const wanted = first === "organizations" ? rest[1] : rest[0];
  return { ...(pagesOf(scope).find(({ path }) => path === wanted) ?? KEYS), scope };
}

function scopeOf(first, [name], me) {
  const found = first === "organizations" && me.organizations.find((each) => each.name === name);
  return found ? organization(found) : account(me);
}
