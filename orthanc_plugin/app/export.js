// SPDX-License-Identifier: Apache-2.0
// The most attended patches for other programs: GeoJSON as QuPath reads it, and CSV.

const COLUMNS = ["rank", "x", "y", "width", "height", "attention", "percentile"];

function corners({ x, y, width, height }) {
    const [right, bottom] = [x + width, y + height];
    return [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]];
}

/** Return the patches as GeoJSON; coordinates are level-0 pixels, the origin at the top left. */
export function geoJson(request) {
    const features = (request.result.top_patches ?? []).map((box, index) => ({
        type: "Feature",
        geometry: { type: "Polygon", coordinates: [corners(box)] },
        properties: {
            objectType: "annotation",
            name: `Patch ${index + 1}`,
            measurements: { attention: box.attention, percentile: box.percentile },
            request_id: request.request_id,
            series_instance_uid: request.series_instance_uid,
        },
    }));
    return JSON.stringify({ type: "FeatureCollection", features });
}

/** Return the patches as CSV (RFC 4180). */
export function csv(request) {
    const rows = (request.result.top_patches ?? []).map((box, index) => {
        const values = { ...box, rank: index + 1 };
        return COLUMNS.map((name) => String(values[name] ?? "")).join(",");
    });
    return [COLUMNS.join(","), ...rows, ""].join("\r\n");
}

/** Let the browser save a text as a file. */
export function save(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    // The download has its own hold on the bytes once it has begun.
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
