// SPDX-License-Identifier: Apache-2.0
// The slide on the screen: OpenSeadragon draws the tiles, a canvas above it the attention and the patches.

import { tileSource, tilesOfWhole } from "./pyramid.js";

// A slide without small levels would ask for thousands of tiles at once; then the thumbnail stands in.
const MOST_TILES_IN_VIEW = 300;
const PATCH_MARGIN = 1.5;
const OWN_STYLE = "data-openseadragon-mobile-css";
const OUTLINE = "#00e5ff";
const CHOSEN = "#ff1f9c";
// More outlines would hide the tissue of a small slide.
const OUTLINED = 8;

/**
 * OpenSeadragon adds a style sheet to the page, which our policy refuses, unless it finds an element of that
 * name there: one without a namespace is found and styles nothing.
 */
function forestallStyle() {
    if (document.querySelector(`style[${OWN_STYLE}]`)) return;
    const mark = document.createElementNS(null, "style");
    mark.setAttribute(OWN_STYLE, "");
    document.head.append(mark);
}

/** `<slide-view>`: give it a slide with `show`, then overlays and patches. */
export class SlideView extends HTMLElement {
    #heat = null;
    #patches = [];
    #chosen = -1;
    #showPatches = true;

    /**
     * Show a slide.
     * @param {Object} slide `seriesId`, `width`, `height` (level-0 pixels), `levels` or null, `thumbnail` address
     * or null; at least one of the two
     * @returns {Promise<void>} ends when the first picture is open
     */
    show(slide) {
        this.slide = slide;
        const picture = document.createElement("div");
        picture.className = "picture";
        this.canvas = document.createElement("canvas");
        this.canvas.className = "marks";
        this.replaceChildren(picture, this.canvas);
        this.viewer = this.#open(picture);
        for (const event of ["update-viewport", "animation", "resize", "open"]) {
            this.viewer.addHandler(event, () => this.#draw());
        }
        return new Promise((resolve, reject) => {
            this.viewer.addOnceHandler("open", () => {
                this.#measure();
                resolve();
            });
            this.viewer.addOnceHandler("open-failed", ({ message }) => reject(new Error(message)));
        });
    }

    /** A result that does not say how large its slide is: then the picture is the measure. */
    #measure() {
        if (this.slide.width) return;
        const { x: width, y: height } = this.viewer.world.getItemAt(0).getContentSize();
        Object.assign(this.slide, { width, height });
    }

    #open(picture) {
        const { seriesId, levels, thumbnail } = this.slide;
        const sources = [];
        forestallStyle();
        if (thumbnail) sources.push({ tileSource: { type: "image", url: thumbnail }, width: 1 });
        if (levels) sources.push({ tileSource: tileSource(seriesId, levels), width: 1 });
        const viewer = OpenSeadragon({
            element: picture,
            tileSources: sources,
            drawer: "canvas", // works on every machine, also those without a graphics card
            showNavigationControl: false,
            showNavigator: false,
            // Nothing but the tiles that are looked at: the server is also somebody's archive.
            immediateRender: true,
            imageLoaderLimit: 6,
            maxZoomPixelRatio: 4,
            visibilityRatio: 0.3,
            animationTime: 0.6,
            gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
        });
        if (thumbnail && levels && tilesOfWhole(levels) > MOST_TILES_IN_VIEW) {
            viewer.addHandler("open", () => this.#sparePyramid(viewer));
            viewer.addHandler("animation", () => this.#sparePyramid(viewer));
        }
        return viewer;
    }

    /** Load tiles only once few enough of them are in view. */
    #sparePyramid(viewer) {
        const tiles = viewer.world.getItemAt(1);
        if (!tiles) return;
        const view = viewer.viewport.getBounds();
        const whole = tiles.getBounds();
        const share = Math.min(1, view.width / whole.width) * Math.min(1, view.height / whole.height);
        tiles.setOpacity(share * tilesOfWhole(this.slide.levels) <= MOST_TILES_IN_VIEW ? 1 : 0);
    }

    /** Lay an overlay over the slide, also again after its pixels changed; null takes it away. */
    set heat(heat) {
        this.#heat = heat;
        this.#draw();
    }

    /** Patches to jump to: boxes in level-0 pixels, the first of them outlined. */
    set patches(boxes) {
        this.#patches = boxes;
        this.#draw();
    }

    set outlines(shown) {
        this.#showPatches = shown;
        this.#draw();
    }

    /** Bring a patch into view. */
    jumpTo(index) {
        this.#chosen = index;
        const { x, y, width, height } = this.#patches[index];
        const full = this.slide.width;
        const wide = PATCH_MARGIN * Math.max(width, height);
        const middle = new OpenSeadragon.Point((x + width / 2) / full, (y + height / 2) / full);
        const side = (2 * wide) / full;
        const box = new OpenSeadragon.Rect(middle.x - side / 2, middle.y - side / 2, side, side);
        this.viewer.viewport.fitBounds(box);
        this.#draw();
    }

    zoom(factor) {
        this.viewer.viewport.zoomBy(factor);
        this.viewer.viewport.applyConstraints();
    }

    home() {
        this.#chosen = -1;
        this.viewer.viewport.goHome();
        this.#draw();
    }

    /** Return where a slide pixel is in this element, in CSS pixels. */
    positionOf(x, y) {
        const full = this.slide.width;
        const point = new OpenSeadragon.Point(x / full, y / full);
        return this.viewer.viewport.pixelFromPoint(point, true);
    }

    #draw() {
        if (!this.viewer?.isOpen() || !this.slide.width) return;
        const ratio = window.devicePixelRatio || 1;
        const { clientWidth, clientHeight } = this;
        const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
        if (this.canvas.width !== width || this.canvas.height !== height) {
            this.canvas.width = width;
            this.canvas.height = height;
        }
        const context = this.canvas.getContext("2d");
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.clearRect(0, 0, clientWidth, clientHeight);
        this.#drawHeat(context);
        if (this.#showPatches) this.#drawPatches(context);
    }

    #drawHeat(context) {
        if (!this.#heat) return;
        const start = this.positionOf(0, 0);
        const end = this.positionOf(this.slide.width, this.slide.height);
        context.drawImage(this.#heat.canvas, start.x, start.y, end.x - start.x, end.y - start.y);
    }

    #drawPatches(context) {
        this.#patches.forEach(({ x, y, width, height }, index) => {
            const chosen = index === this.#chosen;
            if (index >= OUTLINED && !chosen) return;
            const start = this.positionOf(x, y);
            const end = this.positionOf(x + width, y + height);
            const box = [start.x, start.y, end.x - start.x, end.y - start.y];
            // A dark line below a light one is seen on pale and on dark tissue.
            context.lineWidth = chosen ? 6 : 2.5;
            context.strokeStyle = "rgba(0, 0, 0, 0.65)";
            context.strokeRect(...box);
            context.lineWidth = chosen ? 3 : 1.25;
            context.strokeStyle = chosen ? CHOSEN : OUTLINE;
            context.strokeRect(...box);
        });
    }
}

customElements.define("slide-view", SlideView);
