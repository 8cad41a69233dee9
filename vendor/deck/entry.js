// What the map of the search page uses of deck.gl.

export { Deck, OrthographicView } from "@deck.gl/core";
export { ScatterplotLayer } from "@deck.gl/layers";
