// SPDX-License-Identifier: Apache-2.0
// The most attended patches as a strip of small pictures.

import { artifactUrl } from "./api.js";
import { element, fill } from "./dom.js";
import { number } from "./format.js";
import { t } from "./i18n.js";
import { cropPlan, tileUrl } from "./pyramid.js";

const CROP_PX = 160;
const FIRST_SHOWN = 24;

async function picture(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    return image;
}

/** Draw a crop of the slide from its tiles. */
async function drawCrop(canvas, seriesId, levels, box) {
    const { level, scale, tiles } = cropPlan(levels, box, CROP_PX);
    const context = canvas.getContext("2d");
    const stretch = canvas.width / (box.width * scale);
    for (const { column, row } of tiles) {
        const image = await picture(tileUrl(seriesId, level, column, row));
        context.drawImage(
            image,
            (column * level.tileWidth - box.x * scale) * stretch,
            (row * level.tileHeight - box.y * scale) * stretch,
            image.width * stretch,
            image.height * stretch,
        );
    }
}

/** Return the artifact that shows a patch, or null: patch-NNN.jpg, counted from 0 or from 1. */
export function patchArtifact(artifacts, index) {
    const names = new Set(artifacts.map(({ name }) => name));
    const first = names.has("patch-000.jpg") ? 0 : 1;
    const name = `patch-${String(index + first).padStart(3, "0")}.jpg`;
    return names.has(name) ? name : null;
}

function patchPicture(request, levels, box, index, whenSeen) {
    const name = patchArtifact(request.artifacts ?? [], index);
    if (name) {
        const url = artifactUrl(request.request_id, name);
        return element("img", { src: url, alt: "", width: CROP_PX, height: CROP_PX, loading: "lazy" });
    }
    const canvas = element("canvas", { width: CROP_PX, height: CROP_PX, "aria-hidden": "true" });
    if (levels) {
        whenSeen(canvas, () => drawCrop(canvas, request.series, levels, box).catch(() => canvas.classList.add("empty")));
    }
    return canvas;
}

function watcher() {
    const jobs = new WeakMap();
    const nearby = { rootMargin: "400px" };
    const observer = new IntersectionObserver((entries) => {
        for (const { isIntersecting, target } of entries) {
            if (!isIntersecting) continue;
            observer.unobserve(target);
            jobs.get(target)();
        }
    }, nearby);
    return (target, job) => {
        jobs.set(target, job);
        observer.observe(target);
    };
}

/**
 * Fill the strip.
 * @param {HTMLElement} strip
 * @param {Object} request
 * @param {Array|null} levels of the slide, for crops
 * @param {function(number): void} jump called with the patch's place in the list
 */
export function showPatches(strip, request, levels, jump) {
    const all = request.result.top_patches ?? [];
    strip.closest("section").hidden = !all.length;
    const whenSeen = watcher();
    const choose = (button, index) => {
        strip.querySelector("[aria-current]")?.removeAttribute("aria-current");
        button.setAttribute("aria-current", "true");
        jump(index);
    };
    const item = (box, index) => {
        const label = t("patches.label", { rank: index + 1, percentile: number(box.percentile, 1) });
        const button = element(
            "button.patch",
            { type: "button", "aria-label": label, title: label, onclick: () => choose(button, index) },
            patchPicture(request, levels, box, index, whenSeen),
            element("span.caption", {}, element("b", {}, `${index + 1}.`), number(box.percentile, 1)),
        );
        return button;
    };
    const more = element(
        "button.more",
        {
            type: "button",
            onclick: () => more.replaceWith(...all.slice(FIRST_SHOWN).map((box, at) => item(box, at + FIRST_SHOWN))),
        },
        t("patches.more", { count: all.length - FIRST_SHOWN }),
    );
    fill(strip, all.slice(0, FIRST_SHOWN).map(item), all.length > FIRST_SHOWN ? more : null);
}
