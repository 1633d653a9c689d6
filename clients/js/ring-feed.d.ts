// The types of ring-feed.js.

import type { Variable } from "./ringfeed.js";

/** `<ring-feed topic mode limit key history src>` */
export class RingFeed extends HTMLElement {
  readonly variable: Variable<unknown> | null;
}

declare global {
  interface HTMLElementTagNameMap {
    "ring-feed": RingFeed;
  }
}
