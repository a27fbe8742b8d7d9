// SPDX-License-Identifier: Apache-2.0
// How the attention over the slide is shown.

import { element } from "../dom.js";
import { percent } from "../format.js";
import { t } from "../i18n.js";
import { legend } from "../legend.js";

export const FIRST_OPACITY = 0.6;

/** Return the controls of the attention over a slide: whether it is shown, how strongly, and from which rank on. */
export function overlayControls(overlay, heat) {
    const value = element("output");
    const slider = (id, label, start) => {
        const range = { min: 0, max: 100, value: 100 * start };
        return element("input", { type: "range", id, ...range, "aria-label": label, oninput: () => paint() });
    };
    const shown = element("input", { type: "checkbox", id: "heat", checked: true });
    shown.onchange = () => (overlay.shown = shown.checked);
    const opacity = slider("opacity", t("slide.opacity"), FIRST_OPACITY);
    const threshold = slider("threshold", t("slide.threshold"), 0);
    const paint = () => {
        heat.paint(Number(threshold.value), opacity.value / 100);
        value.textContent = percent(opacity.value / 100);
    };
    paint();
    return [
        element("label", {}, shown, t("slide.heat")),
        element("label", {}, t("slide.opacity"), opacity, value),
        element("label", {}, t("slide.threshold"), threshold),
        element("div.legend", {}, legend({ cut: true })),
    ];
}
