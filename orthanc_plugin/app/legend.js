// SPDX-License-Identifier: Apache-2.0
// What the colours over the slide mean.

import { element } from "./dom.js";
import { t } from "./i18n.js";

// The overlay's colours in even steps, from the least to the most attended: `attention` in clam_core's colour maps.
const COLOURS = [
    "#4456c7", "#4675ed", "#4096fe", "#2bb6ef", "#1ad1d2", "#1de7b1", "#3ff58a", "#6dfd62", "#9bfd40",
    "#bef334", "#dae236", "#f2c83a", "#fdab33", "#fc8926", "#f36315", "#e24209", "#cb2b03",
];

/**
 * Return the ramp of colours and the sentences about it.
 * @param {{cut: boolean}} shown `cut`: whether a threshold may hide patches
 */
export function legend({ cut }) {
    const ramp = element("span.ramp", { "aria-hidden": "true" });
    ramp.style.backgroundImage = `linear-gradient(to right, ${COLOURS.join(", ")})`;
    return [
        element("span", {}, t("legend.low")),
        ramp,
        element("span", {}, t("legend.high")),
        element("p.muted", {}, t("legend.meaning"), " ", t(cut ? "legend.bare_or_cut" : "legend.bare"), " ", t("legend.faint")),
    ];
}
