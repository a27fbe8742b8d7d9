// SPDX-License-Identifier: Apache-2.0
// The slide with its controls: zoom, attention overlay, opacity, threshold, outlines.

import { artifactUrl } from "./api.js";
import { byId, element, fill } from "./dom.js";
import { percent } from "./format.js";
import { Heat } from "./heat.js";
import { t } from "./i18n.js";
import { legend } from "./legend.js";
import "./slide_view.js";

function has(request, name) {
    return (request.artifacts ?? []).some((artifact) => artifact.name === name);
}

/** Call at most once for each picture on the screen. */
function onceAFrame(work) {
    let due = false;
    return () => {
        if (due) return;
        due = true;
        requestAnimationFrame(() => {
            due = false;
            work();
        });
    };
}

function bindZoom(view) {
    byId("zoom-in").onclick = () => view.zoom(1.6);
    byId("zoom-out").onclick = () => view.zoom(1 / 1.6);
    byId("whole").onclick = () => view.home();
    byId("outlines").onchange = ({ target }) => (view.outlines = target.checked);
}

function bindHeat(view, heat) {
    const [shown, opacity, threshold] = [byId("heat"), byId("opacity"), byId("threshold")];
    for (const control of [shown, opacity, threshold]) control.disabled = heat === null;
    byId("legend").hidden = heat === null;
    if (heat === null) return;
    fill(byId("legend"), legend({ cut: true }));
    const paint = () => {
        heat.paint(Number(threshold.value), opacity.value / 100);
        view.heat = shown.checked ? heat : null;
    };
    const paintSoon = onceAFrame(paint);
    const follow = (slider) => {
        const value = byId(`${slider.id}-value`);
        const tell = () => (value.textContent = percent(slider.value / 100));
        slider.oninput = () => {
            tell();
            paintSoon();
        };
        tell();
    };
    follow(opacity);
    follow(threshold);
    shown.onchange = paint;
    paint();
}

/** The whole slide as plain pictures, for paper. */
function wholeSlide(request) {
    const url = (name) => artifactUrl(request.request_id, name);
    const pictures = ["thumbnail.png", "overlay.png"].filter((name) => has(request, name));
    const names = pictures.includes("thumbnail.png") ? pictures : ["heatmap.png"].filter((name) => has(request, name));
    fill(byId("whole-slide"), names.map((name) => element("img", { src: url(name), alt: t("slide.label") })));
}

/**
 * Show the slide of a result.
 * @param {Object} request
 * @param {Array|null} levels of the pyramid; null where Orthanc has no tiles
 * @returns {Promise<HTMLElement|null>} the view; null where there is no picture of the slide at all
 */
export async function showSlide(request, levels) {
    const view = byId("slide");
    const url = (name) => artifactUrl(request.request_id, name);
    const picture = ["thumbnail.png", "heatmap.png"].find((name) => has(request, name));
    if (!levels && !picture) return null;
    // Without tiles and without the plain slide, the finished heatmap picture stands alone.
    const overlaid = levels !== null || picture === "thumbnail.png";
    const { width = levels?.[0].width, height = levels?.[0].height } = request.result.slide ?? {};
    wholeSlide(request);
    await view.show({
        seriesId: request.series,
        width,
        height,
        levels,
        thumbnail: has(request, "thumbnail.png") || !levels ? url(picture) : null,
    });
    bindZoom(view);
    view.patches = overlaid ? (request.result.top_patches ?? []) : [];
    bindHeat(view, null);
    return view;
}

/** Lay the attention over the slide that is shown, where the result has it as an overlay. */
export async function showHeat(request, levels) {
    const overlaid = levels !== null || has(request, "thumbnail.png");
    if (!overlaid || !has(request, "overlay.png")) return;
    bindHeat(byId("slide"), await Heat.load(artifactUrl(request.request_id, "overlay.png")));
}
