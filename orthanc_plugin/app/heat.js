// SPDX-License-Identifier: Apache-2.0
// The attention overlay as pixels. overlay.png holds colour and, in its opacity, how much a place is attended:
// the opacity grows linearly with the percentile, from FAINTEST at 0 to STRONGEST at 100, in so many STEPS (as
// clam_core/heatmap/overlay.py paints it); nothing at all was not looked at.

import { getPicture } from "./api.js";

const [FAINTEST, STRONGEST, STEPS] = [0.12, 0.52, 254];

// Up to the middle of the slider faint colours stay nearly as faint beside strong ones as the worker drew them;
// from there on they catch up, and at the end all are opaque.
const CATCHING_UP = 3;

/** Return the opacity of every pixel. */
function opacitiesOf(data) {
    const drawn = new Uint8Array(data.length / 4);
    for (let at = 0; at < drawn.length; at += 1) drawn[at] = data[4 * at + 3];
    return drawn;
}

/** Return the opacity, 0 to 255, that the worker gives a percentile. */
function opacityOf(percentile) {
    const share = Math.floor((percentile / 100) * STEPS) / STEPS;
    return Math.round(255 * (FAINTEST + (STRONGEST - FAINTEST) * share));
}

/** The overlay of one result. */
export class Heat {
    constructor(bitmap) {
        this.canvas = document.createElement("canvas");
        this.canvas.width = bitmap.width;
        this.canvas.height = bitmap.height;
        this.context = this.canvas.getContext("2d", { willReadFrequently: true });
        this.context.drawImage(bitmap, 0, 0);
        this.picture = this.context.getImageData(0, 0, bitmap.width, bitmap.height);
        this.drawn = opacitiesOf(this.picture.data);
    }

    /** Load an overlay. */
    static async load(url) {
        // The colours are values: they must not pass through the screen's profile or a rounding by opacity.
        const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
        return new Heat(await createImageBitmap(await getPicture(url), options));
    }

    /**
     * Paint what lies at or above a percentile.
     * @param {number} percentile 0 to 100
     * @param {number} opacity of percentile 100, 0 to 1; at 1 all colours are opaque
     */
    paint(percentile, opacity) {
        const shown = this.#opacities(percentile, opacity);
        const { drawn, picture } = this;
        for (let at = 0; at < drawn.length; at += 1) picture.data[4 * at + 3] = shown[drawn[at]];
        this.context.putImageData(picture, 0, 0);
    }

    /** Return with which opacity each of the worker's 256 opacities is shown. */
    #opacities(percentile, opacity) {
        const [cut, most] = [opacityOf(percentile), opacityOf(100)];
        return Uint8ClampedArray.from({ length: 256 }, (_, alpha) => {
            if (alpha === 0 || alpha < cut) return 0;
            const share = alpha / most;
            return 255 * opacity * (share + (1 - share) * opacity ** CATCHING_UP);
        });
    }
}
