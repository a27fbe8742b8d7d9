// SPDX-License-Identifier: Apache-2.0
// The slide that OHIF's microscopy viewport shows, out of the viewer inside it.

// OHIF tells nobody when a viewer has opened or gone. Looking at what it holds costs no request.
const LOOK_EVERY_MS = 300;

/** Return a property that dicom-microscopy-viewer keeps under a symbol. OHIF itself reads it in this way. */
function hidden(viewer, name) {
    const symbol = Object.getOwnPropertySymbols(viewer).find(({ description }) => description === name);
    return symbol && viewer[symbol];
}

/**
 * A slide on the screen.
 * @typedef {Object} ViewedSlide
 * @property {Object} viewer dicom-microscopy-viewer's VolumeImageViewer
 * @property {Object} map the OpenLayers map in it
 * @property {string} study StudyInstanceUID
 * @property {string} series SeriesInstanceUID of the slide, also where a report about it was opened
 * @property {number} width of the finest level, pixels
 * @property {number} height of the finest level, pixels
 */

/** Return the slide in the active viewport, else in any; null where there is none. */
export function viewedSlide({ microscopyService, viewportGridService }) {
    const open = microscopyService?.getAllManagedViewers() ?? [];
    const active = viewportGridService?.getActiveViewportId();
    const shown = open.find(({ viewportId }) => viewportId === active) ?? open[0];
    const map = shown && hidden(shown.viewer, "map");
    const finest = shown && hidden(shown.viewer, "pyramid")?.metadata?.at(-1);
    if (!map || !finest) return null;
    return {
        viewer: shown.viewer,
        map,
        study: finest.StudyInstanceUID ?? shown.studyInstanceUID,
        series: finest.SeriesInstanceUID ?? shown.seriesInstanceUID,
        width: finest.TotalPixelMatrixColumns,
        height: finest.TotalPixelMatrixRows,
    };
}

/**
 * Tell of the slide on the screen, now and whenever another viewer takes its place.
 * @param {Object} services OHIF's
 * @param {function(ViewedSlide|null): void} changed
 * @returns {function(): void} ends it
 */
export function watchSlide(services, changed) {
    let viewer = null;
    const look = () => {
        const slide = viewedSlide(services);
        if ((slide?.viewer ?? null) === viewer) return;
        viewer = slide?.viewer ?? null;
        changed(slide);
    };
    changed(null);
    look();
    const timer = setInterval(look, LOOK_EVERY_MS);
    return () => clearInterval(timer);
}
