// SPDX-License-Identifier: Apache-2.0
// The attention as the DICOM object that was stored (a Parametric Map), drawn by OHIF's viewer itself.

import { orthanc } from "../api.js";

const PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30";
const SOP_CLASS = "00080016";

/** Return the metadata of the stored map of a request, or null where it has none. */
async function storedMap(request) {
    const path = (series) => `dicom-web/studies/${request.study_instance_uid}/series/${series}/metadata`;
    for (const { modality, series_instance_uid: series } of request.dicom ?? []) {
        if (modality === "SR") continue;
        const [first] = await orthanc(path(series));
        if (first?.[SOP_CLASS]?.Value?.[0] === PARAMETRIC_MAP) return first;
    }
    return null;
}

/** The map of one result in one viewer; it is added to the viewer when it is first shown. */
export class AttentionMap {
    #added = null;
    #uids = [];
    #wanted = false;

    constructor(viewer, microscopyService, request) {
        this.viewer = viewer;
        this.microscopyService = microscopyService;
        this.request = request;
    }

    /** Show the map; return whether there is one. The viewer draws it at its own level and finer, and zooms there. */
    async show(opacity) {
        this.#wanted = true;
        // Kept before there is an answer: the viewer would draw a second one of the same.
        this.#added ??= this.#add();
        try {
            this.#uids = await this.#added;
        } catch (error) {
            this.#added = null;
            throw error;
        }
        if (this.#wanted) for (const uid of this.#uids) this.viewer.showParameterMapping(uid, { opacity });
        return this.#uids.length > 0;
    }

    hide() {
        this.#wanted = false;
        for (const uid of this.#uids) this.viewer.hideParameterMapping(uid);
    }

    async #add() {
        const metadata = await storedMap(this.request);
        if (metadata === null) return [];
        const library = await this.microscopyService.importDicomMicroscopyViewer();
        const before = this.#known();
        this.viewer.addParameterMappings([new library.metadata.ParametricMap({ metadata })]);
        return [...this.#known()].filter((uid) => !before.has(uid));
    }

    #known() {
        return new Set(this.viewer.getAllParameterMappings().map(({ uid }) => uid));
    }
}
