// SPDX-License-Identifier: Apache-2.0
// The most attended patches as a strip of small pictures.

import { artifactUrl } from "./api.js";
import { element, fill } from "./dom.js";
import { number } from "./format.js";
import { t } from "./i18n.js";
import { cropPlan, tileUrl } from "./pyramid.js";

const CROP_PX = 160;
const FIRST_SHOWN = 24;
// With fewer pixels of the small picture across it, a patch is a blur that says nothing.
const FEWEST_PX = 32;

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

/** Return what cuts patches out of the slide's small picture, and for which that is fine enough; null where there is none. */
async function smallPicture(request) {
    const { artifacts, result, request_id: id } = request;
    const width = result.slide?.width;
    if (!width || !artifacts?.some(({ name }) => name === "thumbnail.png")) return null;
    const image = await picture(artifactUrl(id, "thumbnail.png"));
    const scale = image.naturalWidth / width;
    return {
        shows: (box) => box.width * scale >= FEWEST_PX,
        draw: (canvas, { x, y, width: across, height: down }) => {
            const part = [x, y, across, down].map((pixels) => pixels * scale);
            canvas.getContext("2d").drawImage(image, ...part, 0, 0, canvas.width, canvas.height);
        },
    };
}

/** Return where patches are cut out of that the worker sent no picture of; null where there is nothing. */
async function cropSource(request, levels) {
    if (levels === null) return smallPicture(request);
    const whenSeen = watcher();
    const crop = (canvas, box) =>
        drawCrop(canvas, request.series, levels, box).catch(() => canvas.classList.add("empty"));
    return { shows: () => true, draw: (canvas, box) => whenSeen(canvas, () => crop(canvas, box)) };
}

function patchPicture(request, crops, box, index) {
    const name = patchArtifact(request.artifacts ?? [], index);
    if (name) {
        const url = artifactUrl(request.request_id, name);
        return element("img", { src: url, alt: "", width: CROP_PX, height: CROP_PX, loading: "lazy" });
    }
    const canvas = element("canvas", { width: CROP_PX, height: CROP_PX, "aria-hidden": "true" });
    crops.draw(canvas, box);
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

function sayMissing(strip, count) {
    strip.parentElement.querySelector(".missing")?.remove();
    if (count) strip.after(element("p.missing.muted", {}, t("patches.no_picture", { count })));
}

/**
 * Fill the strip with the patches that there is a picture of, and say how many there is none of.
 * @param {HTMLElement} strip
 * @param {Object} request
 * @param {Array|null} levels of the slide, for crops
 * @param {function(number): void} jump called with the patch's place in the list
 */
export async function showPatches(strip, request, levels, jump) {
    const all = request.result.top_patches ?? [];
    strip.closest("section").hidden = !all.length;
    const crops = await cropSource(request, levels);
    const pictured = all
        .map((box, index) => ({ box, index }))
        .filter(({ box, index }) => patchArtifact(request.artifacts ?? [], index) || crops?.shows(box));
    const choose = (button, index) => {
        strip.querySelector("[aria-current]")?.removeAttribute("aria-current");
        button.setAttribute("aria-current", "true");
        jump(index);
    };
    const item = ({ box, index }) => {
        const label = t("patches.label", { rank: index + 1, percentile: number(box.percentile, 1) });
        const button = element(
            "button.patch",
            { type: "button", "aria-label": label, title: label, onclick: () => choose(button, index) },
            patchPicture(request, crops, box, index),
            element("span.caption", {}, element("b", {}, `${index + 1}.`), number(box.percentile, 1)),
        );
        return button;
    };
    const more = element(
        "button.more",
        {
            type: "button",
            onclick: () => more.replaceWith(...pictured.slice(FIRST_SHOWN).map(item)),
        },
        t("patches.more", { count: pictured.length - FIRST_SHOWN }),
    );
    fill(strip, pictured.slice(0, FIRST_SHOWN).map(item), pictured.length > FIRST_SHOWN ? more : null);
    sayMissing(strip, all.length - pictured.length);
}
