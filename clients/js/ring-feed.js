// <ring-feed topic="prices:ACME" mode="append" limit="20">: a topic's value in a page without a line of script.
//
// A <template> inside is filled in for each record: an element with data-field="a.b" shows that member as text. Without
// one the element shows the records themselves. What arrives becomes text only, never markup.

import { connect } from "./ringfeed.js";

const connections = new Map();

function connectionTo(url) {
  if (!connections.has(url)) connections.set(url, connect(url));
  return connections.get(url);
}

const textOf = (item) => (item === null || typeof item !== "object" ? String(item ?? "") : JSON.stringify(item));
const member = (item, path) => path.split(".").reduce((value, name) => value?.[name], item);

export class RingFeed extends HTMLElement {
  static observedAttributes = ["topic", "mode", "limit", "key", "history", "src"];
  #leave = null;

  /** The variable that is shown: `element.variable.send(data)` publishes. */
  variable = null;

  connectedCallback() {
    this.#follow();
  }

  disconnectedCallback() {
    this.#leave?.();
    this.#leave = null;
  }

  attributeChangedCallback() {
    if (this.#leave) this.#follow();
  }

  #follow() {
    this.disconnectedCallback();
    const topic = this.getAttribute("topic");
    if (!topic) return;
    const option = (name) => this.getAttribute(name) ?? undefined;
    const number = (name) => (this.hasAttribute(name) ? Number(option(name)) : undefined);
    const options = { mode: option("mode"), key: option("key"), limit: number("limit"), history: number("history") };
    const connection = connectionTo(new URL(option("src") ?? "/", location.href).href);
    this.variable = connection.variable(topic, options);
    this.#leave = this.variable.subscribe((value) => {
      this.#show(value);
      this.dispatchEvent(new CustomEvent("value", { detail: value }));
    });
  }

  #show(value) {
    const isList = this.variable.mode !== "snapshot";
    const items = isList ? [...value.values()] : value === undefined ? [] : [value];
    const template = this.querySelector(":scope > template");
    const shown = items.map((item) => (template ? this.#filled(template, item) : this.#plain(item, isList)));
    this.replaceChildren(...(template ? [template] : []), ...shown);
  }

  #filled(template, item) {
    const content = template.content.cloneNode(true);
    for (const field of content.querySelectorAll("[data-field]")) {
      field.textContent = textOf(field.dataset.field ? member(item, field.dataset.field) : item);
    }
    return content;
  }

  #plain(item, isList) {
    const element = document.createElement(isList ? "div" : "span");
    element.textContent = textOf(item);
    return element;
  }
}

customElements.define("ring-feed", RingFeed);
