// SPDX-License-Identifier: Apache-2.0
// The slide as tiles of Orthanc's own whole-slide plugin.

import { orthanc, orthancUrl } from "./api.js";

const ROUNDING_PX = 2;
// Orthanc's whole-slide plugin 1.1 shows JPEG 2000 with a colour transform in false colours (magenta glass).
const FALSE_COLOURS = /^YBR_(ICT|RCT)$/;
const NOT_THE_SLIDE = /LABEL|OVERVIEW|LOCALIZER/;

/**
 * One resolution of the slide, finest first in a list.
 * @typedef {{z: number, width: number, height: number, tileWidth: number, tileHeight: number}} Level
 */

/**
 * Return the levels that show the slide.
 *
 * Orthanc's plugin lists every image of the series by its size, the label (which carries names) and the
 * macro picture among them: what is not the finest level made smaller, or has the size of such a picture,
 * is left out.
 * @param {Object} pyramid answer of /wsi/pyramids/SERIES
 * @param {Array<[number, number]>} others sizes of label and overview pictures
 * @returns {Level[]}
 */
export function slideLevels(pyramid, others = []) {
    const [fullWidth, fullHeight] = pyramid.Sizes[0];
    const levels = pyramid.Sizes.map(([width, height], z) => ({
        z,
        width,
        height,
        tileWidth: pyramid.TilesSizes[z][0],
        tileHeight: pyramid.TilesSizes[z][1],
    }));
    return levels.filter(({ z, width, height }) => {
        if (z === 0) return true;
        if (others.some(([w, h]) => w === width && h === height)) return false;
        return Math.abs((fullHeight / fullWidth) * width - height) <= ROUNDING_PX;
    });
}

/** Return the sizes of the pictures of a series that are not the slide, from the tags of each. */
export function otherPictures(tags) {
    return tags
        .filter((one) => NOT_THE_SLIDE.test(one.ImageType ?? ""))
        .map((one) => [
            Number(one.TotalPixelMatrixColumns ?? one.Columns),
            Number(one.TotalPixelMatrixRows ?? one.Rows),
        ]);
}

/** Return the address of a tile. */
export function tileUrl(seriesId, level, column, row) {
    return orthancUrl(`wsi/tiles/${encodeURIComponent(seriesId)}/${level.z}/${column}/${row}`);
}

/** Whether Orthanc would show the slide's tiles in false colours, from the tags of each of its images. */
export function hasFalseColours(tags) {
    return tags.some((one) => FALSE_COLOURS.test(one.PhotometricInterpretation ?? ""));
}

/** Return the slide's levels, or null where Orthanc has no tiles of it, or none in the right colours. */
export async function loadLevels(seriesId, tags) {
    if (hasFalseColours(tags)) return null;
    try {
        const pyramid = await orthanc(`wsi/pyramids/${encodeURIComponent(seriesId)}`);
        return slideLevels(pyramid, otherPictures(tags));
    } catch (error) {
        if (error.status > 0) return null;
        throw error;
    }
}

/** Return the levels as a tile source of OpenSeadragon, which counts from the coarsest. */
export function tileSource(seriesId, levels) {
    const coarsestFirst = [...levels].reverse();
    const { width, height } = levels[0];
    return {
        width,
        height,
        minLevel: 0,
        maxLevel: levels.length - 1,
        tileSize: levels[0].tileWidth,
        getLevelScale: (index) => coarsestFirst[index].width / width,
        getTileWidth: (index) => coarsestFirst[index].tileWidth,
        getTileHeight: (index) => coarsestFirst[index].tileHeight,
        getTileUrl: (index, column, row) => tileUrl(seriesId, coarsestFirst[index], column, row),
    };
}

/** Return how many tiles the coarsest level has: what a look at the whole slide costs. */
export function tilesOfWhole(levels) {
    const { width, height, tileWidth, tileHeight } = levels[levels.length - 1];
    return Math.ceil(width / tileWidth) * Math.ceil(height / tileHeight);
}

/**
 * Return the coarsest level on which a part of the slide still has so many pixels, and the tiles it lies on.
 * @param {Level[]} levels
 * @param {{x: number, y: number, width: number, height: number}} box level-0 pixels
 * @param {number} pixels wanted width of the crop
 */
export function cropPlan(levels, box, pixels) {
    const full = levels[0].width;
    const enough = levels.filter((level) => (box.width * level.width) / full >= pixels);
    const level = enough.length ? enough[enough.length - 1] : levels[0];
    const scale = level.width / full;
    const left = Math.max(0, box.x * scale);
    const top = Math.max(0, box.y * scale);
    const right = Math.min(level.width, (box.x + box.width) * scale);
    const bottom = Math.min(level.height, (box.y + box.height) * scale);
    const tiles = [];
    for (let row = Math.floor(top / level.tileHeight); row * level.tileHeight < bottom; row += 1) {
        for (let column = Math.floor(left / level.tileWidth); column * level.tileWidth < right; column += 1) {
            tiles.push({ column, row });
        }
    }
    return { level, scale, tiles };
}
