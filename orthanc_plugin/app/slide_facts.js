// SPDX-License-Identifier: Apache-2.0
// Which slide this is, as Orthanc knows it.

import { orthanc } from "./api.js";

const MOST_INSTANCES = 40;
// What converters write where they were told nothing.
const NO_NAME = /^(unknown|none|n\/?a|-)?$/i;

/** Return a container id, or "" where it names no slide. */
export function named(container) {
    return NO_NAME.test((container ?? "").trim()) ? "" : container.trim();
}

/** The instances with one frame (labels, macro pictures, small levels), else the smallest one. */
function cheapOnes(instances) {
    const single = instances.filter((one) => Number(one.MainDicomTags?.NumberOfFrames ?? 1) <= 1);
    if (single.length) return single;
    return [...instances].sort((a, b) => a.FileSize - b.FileSize).slice(0, 1);
}

async function tagsOf(series, most, signal) {
    const instances = await orthanc(`series/${encodeURIComponent(series)}/instances`, signal);
    // The header of an image with many frames can be megabytes: only the small ones are asked for.
    const asked = cheapOnes(instances).slice(0, most);
    return Promise.all(asked.map((one) => orthanc(`instances/${one.ID}/tags?simplify`, signal)));
}

/**
 * Return what Orthanc says about a slide.
 * @param {string} series Orthanc's id of the series
 * @param {number} most how many images to ask about; one is enough for the slide's name
 * @returns {Promise<{tags: Object[], patient: Object, study: Object, container: string}>}
 */
export async function slideFacts(series, { most = MOST_INSTANCES, signal = null } = {}) {
    const [study, tags] = await Promise.all([
        orthanc(`series/${encodeURIComponent(series)}/study`, signal),
        tagsOf(series, most, signal),
    ]);
    return {
        tags,
        patient: study.PatientMainDicomTags ?? {},
        study: study.MainDicomTags ?? {},
        container: tags.map((one) => named(one.ContainerIdentifier)).find(Boolean) ?? "",
    };
}
