// Who belongs to an organization, and as what.

import { all, put, remove } from "./api.js";
import { Heading } from "./heading.js";
import { html, useSession, useState } from "./html.js";
import { Icon } from "./icons.js";
import { Choice, Confirm, Dialog, Empty, Field, Loaded, Problem, Submit, Table, Tag, useChange, useLoad } from "./parts.js";
import { Time } from "./times.js";

const ROLES = [
  ["member", "Member", "Sees keys, usage, charges and members"],
  ["admin", "Admin", "Makes and changes keys and members, too"],
];
const DIALOGS = { add: AddMember, role: ChangeRole, remove: RemoveMember, leave: RemoveMember };

/** The list; admins change it, and everyone may leave. */
export function Members({ scope, title }) {
  const { me } = useSession();
  const [open, setOpen] = useState(null);
  const list = useLoad(async () => ({ data: await all(`/${scope.owner}/members`, {}) }), [scope.owner]);
  const Opened = open && DIALOGS[open.what];
  return html`
    <${Heading} scope=${scope} title=${title} lead="Members look at keys and spending; admins change them.">
      <button type="button" onClick=${() => setOpen({ what: "leave", member: { user: me.name } })}>Leave</button>
      ${scope.manages && html`<button type="button" class="primary" onClick=${() => setOpen({ what: "add" })}><${Icon} name="add" />Add member</button>`}
    <//>
    <${Loaded} of=${list} empty=${html`<${Empty} icon="members" title="No members" />`}>
      ${({ data }) => html`<${MemberTable} scope=${scope} members=${data} busy=${list.busy} onOpen=${setOpen} />`}
    <//>
    ${Opened && html`<${Opened} scope=${scope} member=${open.member} onClose=${() => setOpen(null)} onDone=${list.reload} />`}
  `;
}

function MemberTable({ scope, members, busy, onOpen }) {
  const { about, me } = useSession();
  const columns = [
    { name: "Name", kind: "name", cell: ({ user }) => html`<b>${user}</b> ${user === me.name && html`<${Tag}>You<//>`}` },
    { name: "Role", cell: ({ role }) => (role === "admin" ? html`<${Tag} kind="good">Admin<//>` : "Member") },
    { name: "Added", cell: ({ added_at }) => html`<${Time} at=${added_at} zone=${about.billing_time_zone} dateOnly />` },
  ];
  if (scope.manages) columns.push({ name: "Actions", kind: "actions", cell: (member) => html`<${Actions} member=${member} onOpen=${onOpen} />` });
  return html`<${Table} caption=${`Members of ${scope.name}`} columns=${columns} rows=${members} rowKey=${({ user }) => user} busy=${busy} />`;
}

const Actions = ({ member, onOpen }) => html`
  <div class="actions">
    <button type="button" class="quiet bare" title="Change role" aria-label=${`Change the role of ${member.user}`} onClick=${() => onOpen({ what: "role", member })}>
      <${Icon} name="edit" />
    </button>
    <button type="button" class="quiet bare" title="Remove" aria-label=${`Remove ${member.user}`} onClick=${() => onOpen({ what: "remove", member })}>
      <${Icon} name="trash" />
    </button>
  </div>
`;

function AddMember({ scope, onClose, onDone }) {
  const { say } = useSession();
  const [user, setUser] = useState("");
  const [role, setRole] = useState("member");
  const [missing, setMissing] = useState(null);
  const { busy, error, run } = useChange();
  const submit = (event) => {
    event.preventDefault();
    const name = user.trim();
    setMissing(name ? null : "Enter a user's name.");
    if (!name) return;
    run(async () => {
      await put(memberPath(scope, name), { role });
      say(`${name} belongs to ${scope.name} now.`);
      onClose();
      onDone();
    });
  };
  const control = (attributes) =>
    html`<input ...${attributes} type="text" autocomplete="off" spellcheck=${false} autofocus value=${user} onInput=${(event) => setUser(event.target.value)} />`;
  return html`
    <${Dialog} title="Add a member" onClose=${onClose}>
      <form onSubmit=${submit} novalidate>
        <div class="body">
          <${Field} label="User name" hint="The operator of this gateway signs people up." problem=${missing} control=${control} />
          <${Choice} row legend="Role" value=${role} choices=${ROLES} onChange=${setRole} />
          <${Problem} error=${error} />
        </div>
        <footer><button type="button" onClick=${onClose}>Cancel</button><${Submit} busy=${busy}>Add<//></footer>
      </form>
    <//>
  `;
}

function ChangeRole({ scope, member, onClose, onDone }) {
  const { me, renew, say } = useSession();
  const [role, setRole] = useState(member.role);
  const change = async () => {
    await put(memberPath(scope, member.user), { role });
    say(`${member.user} is ${role === "admin" ? "an admin" : "a member"} of ${scope.name} now.`);
    onClose();
    onDone();
    if (member.user === me.name) await renew();
  };
  return html`
    <${Confirm} title=${`Change the role of ${member.user}`} action="Change role" onClose=${onClose} onConfirm=${change}>
      <${Choice} row legend="Role" value=${role} choices=${ROLES} onChange=${setRole} />
    <//>
  `;
}

function RemoveMember({ scope, member, onClose, onDone }) {
  const { me, renew, say } = useSession();
  const own = member.user === me.name;
  const take = async () => {
    await remove(memberPath(scope, member.user));
    say(own ? `You have left ${scope.name}.` : `${member.user} is removed from ${scope.name}.`);
    onClose();
    if (!own) return onDone();
    location.hash = "#/account/keys";
    return renew();
  };
  return html`
    <${Confirm} title=${own ? `Leave ${scope.name}?` : `Remove ${member.user}?`} action=${own ? "Leave" : "Remove"} danger onClose=${onClose} onConfirm=${take}>
      <p>${own ? "You" : member.user} will see nothing of ${scope.name} any more, from the next click on. Its keys go on working.</p>
    <//>
  `;
}

const memberPath = (scope, user) => `/${scope.owner}/members/${encodeURIComponent(user)}`;
