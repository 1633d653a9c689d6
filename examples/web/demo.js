// What the demo pages share: short names, and the connection's badge.

export const $ = (id) => document.getElementById(id);

/** An element with a class and a text. What arrives becomes text only, never markup. */
export function made(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

/** Shows the connection's state in the element `status`. */
export function badge(feed) {
  feed.subscribe(({ state, reason, transport }) => {
    const by = transport === "websocket" ? "" : ` by ${transport}`;
    const why = reason ? `: ${reason.text}` : "";
    $("status").textContent = state === "open" ? `live${by}` : `${state}${why}`;
    $("status").className = state;
  });
}

export const count = (number) => Math.round(number).toLocaleString("en");
