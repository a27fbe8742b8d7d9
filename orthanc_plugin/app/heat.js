// SPDX-License-Identifier: Apache-2.0
// The attention overlay as pixels. overlay.png holds colour and, in its opacity, how much a place is attended:
// the opacity grows linearly with the percentile, from the least to the most attended; 0 was not looked at.

/** Return the least and the greatest opacity of what was looked at. */
export function opacityRange(data) {
    let [least, most] = [255, 0];
    for (let at = 3; at < data.length; at += 4) {
        if (data[at] === 0) continue;
        if (data[at] < least) least = data[at];
        if (data[at] > most) most = data[at];
    }
    return [least, most];
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
        [this.least, this.most] = opacityRange(this.source.data);
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
        const cut = this.least + (percentile / 100) * (this.most - this.least);
        for (let at = 3; at < data.length; at += 4) {
            const alpha = data[at];
            if (alpha === 0 || alpha < cut) continue;
            shown.data[at - 3] = data[at - 3];
            shown.data[at - 2] = data[at - 2];
            shown.data[at - 1] = data[at - 1];
            shown.data[at] = (alpha * 255) / this.most;
        }
        this.context.putImageData(shown, 0, 0);
    }
}
