// SPDX-License-Identifier: Apache-2.0
// The attention and the patches over the slide in an OpenLayers map, following pan, zoom and rotation.

const PATCH_MARGIN = 1.5;
const JUMP_MS = 300;
const OUTLINE = "#00e5ff";
const CHOSEN = "#ff1f9c";
// More outlines would hide the tissue of a small slide.
const OUTLINED = 8;

/**
 * Return the map coordinate of a corner of slide pixels: dicom-microscopy-viewer has the slide's rows going
 * down from -1.
 */
export function mapCoordinate([x, y]) {
    return [x, -(y + 1)];
}

/** Return the CSS matrix that takes (0, 0), (width, 0) and (0, height) to three points on the screen. */
export function cssMatrix([origin, right, below], width, height) {
    const across = [(right[0] - origin[0]) / width, (right[1] - origin[1]) / width];
    const down = [(below[0] - origin[0]) / height, (below[1] - origin[1]) / height];
    return `matrix(${[...across, ...down, ...origin].join(", ")})`;
}

/** What lies over one slide; it ends with `remove`. */
export class SlideOverlay {
    #heat = null;
    #patches = [];
    #chosen = -1;

    /** @param {import("./viewed_slide.js").ViewedSlide} slide */
    constructor(slide) {
        this.slide = slide;
        this.layer = document.createElement("div");
        this.layer.dataset.pathology = "overlay";
        Object.assign(this.layer.style, { position: "absolute", inset: "0", overflow: "hidden", pointerEvents: "none" });
        this.marks = document.createElement("canvas");
        Object.assign(this.marks.style, { position: "absolute", inset: "0", width: "100%", height: "100%" });
        this.layer.append(this.marks);
        // Above the slide, below the map's own controls and what a person has drawn into it.
        const viewport = slide.map.getViewport();
        viewport.insertBefore(this.layer, viewport.querySelector(".ol-overlaycontainer"));
        this.follow = () => this.#place();
        slide.map.on("postrender", this.follow);
    }

    remove() {
        this.slide.map.un("postrender", this.follow);
        this.layer.remove();
    }

    /** Lay a picture of the whole slide over it; null takes it away. */
    set heat(canvas) {
        this.#heat?.remove();
        this.#heat = canvas;
        if (canvas === null) return;
        const above = { position: "absolute", left: "0", top: "0", maxWidth: "none", transformOrigin: "0 0" };
        Object.assign(canvas.style, above);
        this.layer.prepend(canvas);
        this.#place();
    }

    set shown(shown) {
        this.layer.hidden = !shown;
        this.layer.style.display = shown ? "" : "none";
    }

    /** Patches to jump to: boxes in level-0 pixels, the first of them outlined. */
    set patches(boxes) {
        this.#patches = boxes;
        this.#place();
    }

    /** Bring a patch into view. */
    jumpTo(index) {
        this.#chosen = index;
        const { x, y, width, height } = this.#patches[index];
        const margin = PATCH_MARGIN * Math.max(width, height);
        const [left, top] = mapCoordinate([x - margin, y - margin]);
        const [right, bottom] = mapCoordinate([x + width + margin, y + height + margin]);
        this.slide.map.getView().fit([left, bottom, right, top], { duration: JUMP_MS });
        this.#place();
    }

    #onScreen(corner) {
        return this.slide.map.getPixelFromCoordinate(mapCoordinate(corner));
    }

    #place() {
        const { width, height } = this.slide;
        const corners = [[0, 0], [width, 0], [0, height]].map((corner) => this.#onScreen(corner));
        // Before its first picture the map has no coordinates.
        if (corners.includes(null)) return;
        if (this.#heat) this.#heat.style.transform = cssMatrix(corners, this.#heat.width, this.#heat.height);
        this.#draw();
    }

    #draw() {
        const ratio = window.devicePixelRatio || 1;
        const { clientWidth, clientHeight } = this.layer;
        const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
        if (this.marks.width !== width || this.marks.height !== height) Object.assign(this.marks, { width, height });
        const context = this.marks.getContext("2d");
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.clearRect(0, 0, clientWidth, clientHeight);
        this.#patches.forEach((box, index) => {
            const chosen = index === this.#chosen;
            if (chosen || index < OUTLINED) this.#outline(context, box, chosen);
        });
    }

    #outline(context, { x, y, width, height }, chosen) {
        const corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]];
        context.beginPath();
        for (const corner of corners) context.lineTo(...this.#onScreen(corner));
        context.closePath();
        // A dark line below a light one is seen on pale and on dark tissue.
        context.lineWidth = chosen ? 6 : 2.5;
        context.strokeStyle = "rgba(0, 0, 0, 0.65)";
        context.stroke();
        context.lineWidth = chosen ? 3 : 1.25;
        context.strokeStyle = chosen ? CHOSEN : OUTLINE;
        context.stroke();
    }
}
