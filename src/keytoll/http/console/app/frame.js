// The frame around each page: the menu, who is signed in, light or dark.

import { html, useEffect, useLayoutEffect, useRef, useSession, useState } from "./html.js";
import { Icon, Mark } from "./icons.js";
import { account, HELP, organization, pagesOf } from "./pages.js";
import { focusHeadingIfNothing } from "./parts.js";
import { chooseTheme, theme, THEMES } from "./theme.js";

const THEME_ICONS = { system: "screen", light: "sun", dark: "moon" };

/** The page with its menu: beside it, or on a phone in a drawer. */
export function Frame({ page, children }) {
  const [open, setOpen] = useState(false);
  const close = () => setOpen(false);
  useEffect(close, [page]);
  return html`
    <div class="frame">
      <a class="skip" href="#content" onClick=${skip}>Skip to the content</a>
      <header class="top">
        <a class="brand" href="#/account/keys"><${Mark} />Keytoll</a>
        <button type="button" class="quiet bare" aria-label="Menu" onClick=${() => setOpen(true)}><${Icon} name="menu" /></button>
      </header>
      ${open && html`<${Drawer} page=${page} onClose=${close} />`}
      <aside><a class="brand" href="#/account/keys"><${Mark} />Keytoll</a><${Menu} page=${page} /></aside>
      <main id="content" tabindex="-1">${children}</main>
    </div>
  `;
}

function Drawer({ page, onClose }) {
  const drawer = useRef(null);
  useLayoutEffect(() => {
    drawer.current.showModal();
    // Closed by its button, it has given the focus back; closed by going to a page, it leaves it to that page.
    return () => requestAnimationFrame(focusHeadingIfNothing);
  }, []);
  return html`
    <dialog class="drawer" ref=${drawer} aria-label="Menu" onClose=${onClose}>
      <header>
        <span class="brand"><${Mark} />Keytoll</span>
        <button type="button" class="quiet bare" aria-label="Close" onClick=${() => drawer.current.close()}><${Icon} name="close" /></button>
      </header>
      <${Menu} page=${page} />
    </dialog>
  `;
}

// The address after the # names the page, so the link moves the focus by itself.
function skip(event) {
  event.preventDefault();
  document.getElementById("content").focus();
}

function Menu({ page }) {
  const { me } = useSession();
  const organizations = me.organizations.map(organization);
  const own = account(me);
  const chosen = organizations.find(({ owner }) => owner === page.scope?.owner) ?? remembered(organizations);
  useEffect(() => chosen && sessionStorage.setItem("organization", chosen.name), [chosen?.name]);
  return html`
    <nav aria-label="Pages">
      <${Group} scope=${own} page=${page}><span class="name">${own.name}</span><//>
      ${chosen && html`<${Group} scope=${chosen} page=${page}><${Switch} chosen=${chosen} organizations=${organizations} page=${page} /><//>`}
      <ul><li><${Item} href="#/help" page=${HELP} active=${page.path === HELP.path} /></li></ul>
    </nav>
    <${Foot} me=${me} />
  `;
}

const remembered = (organizations) =>
  organizations.find(({ name }) => name === sessionStorage.getItem("organization")) ?? organizations[0];

const Group = ({ scope, page, children }) => html`
  <section aria-label=${`${scope.label} ${scope.name}`}>
    <p class="group"><span>${scope.label}</span>${children}</p>
    <ul>
      ${pagesOf(scope).map((each) => {
        const active = each.path === page.path && scope.owner === page.scope?.owner;
        return html`<li key=${each.path}><${Item} href=${`#/${scope.path}/${each.path}`} page=${each} active=${active} /></li>`;
      })}
    </ul>
  </section>
`;

const Item = ({ href, page, active }) =>
  html`<a href=${href} aria-current=${active ? "page" : undefined}><${Icon} name=${page.icon} />${page.title}</a>`;

/** Which organization the menu is about, if there are several. */
function Switch({ chosen, organizations, page }) {
  if (organizations.length === 1) return html`<span class="name">${chosen.name}</span>`;
  const change = (name) => {
    const scope = organizations.find((each) => each.name === name);
    const path = pagesOf(scope).some((each) => each.path === page.path) ? page.path : "keys";
    location.hash = `#/${scope.path}/${path}`;
  };
  return html`
    <select aria-label="Organization" value=${chosen.name} onChange=${(event) => change(event.target.value)}>
      ${organizations.map(({ name }) => html`<option key=${name} value=${name} selected=${name === chosen.name}>${name}</option>`)}
    </select>
  `;
}

function Foot({ me }) {
  const { signOut } = useSession();
  return html`
    <div class="foot">
      <span class="who"><small>Signed in as</small><b>${me.name}</b></span>
      <${ThemeButton} />
      <button type="button" class="quiet bare" aria-label="Sign out" title="Sign out" onClick=${signOut}><${Icon} name="leave" /></button>
    </div>
  `;
}

/** A button that goes through system, light and dark. */
export function ThemeButton() {
  const [chosen, setChosen] = useState(theme);
  const next = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
  const change = () => {
    chooseTheme(next);
    setChosen(next);
  };
  const label = `Colours: ${chosen}. Change to ${next}`;
  return html`<button type="button" class="quiet bare" aria-label=${label} title=${label} onClick=${change}><${Icon} name=${THEME_ICONS[chosen]} /></button>`;
}
