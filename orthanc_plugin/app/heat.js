// SPDX-License-Identifier: Apache-2.0
// The attention overlay as pixels: overlay.png holds colour and, in its opacity, the percentile.

// Opacity of the least and the most attended patch in overlay.png (0.15 and 0.65 of 255); 0 is "not looked at".
export const FAINTEST = 38;
export const STRONGEST = 166;

/** Return the percentile, 0 to 100, that an opacity of overlay.png stands for. */
export function percentileOf(alpha) {
    const share = (alpha - FAINTEST) / (STRONGEST - FAINTEST);
    return 100 * Math.min(1, Math.max(0, share));
}

/** The overlay of one result. */
export class Heat {
    constructor(bitmap) {
        this.canvas = document.createElement("canvas");
        this.canvas.width = bitmap.width;
        this.canvas.height = bitmap.height;
        this.context = this.canvas.getContext("2d", { willReadFrequently: true });
        this.context.drawImage(bitmap, 0, 0);
        this.source = this.context.getImageData(0, 0, bitmap.width, bitmap.height);
    }

    /** Load an overlay. */
    static async load(url) {
        const response = await fetch(url);
        if (!response.ok) throw new Error(`overlay: HTTP ${response.status}`);
        // The colours are values: they must not pass through the screen's profile or a rounding by opacity.
        const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
        return new Heat(await createImageBitmap(await response.blob(), options));
    }

    /** Show only what lies at or above a percentile; opacities are stretched to the whole range. */
    showAbove(percentile) {
        const { data, width, height } = this.source;
        const shown = this.context.createImageData(width, height);
        const least = FAINTEST + (percentile / 100) * (STRONGEST - FAINTEST);
        for (let at = 3; at < data.length; at += 4) {
            const alpha = data[at];
            if (alpha === 0 || (percentile > 0 && alpha < least)) continue;
            shown.data[at - 3] = data[at - 3];
            shown.data[at - 2] = data[at - 2];
            shown.data[at - 1] = data[at - 1];
            shown.data[at] = Math.min(255, (alpha * 255) / STRONGEST);
        }
        this.context.putImageData(shown, 0, 0);
    }
}
