// SPDX-License-Identifier: Apache-2.0
// From the UIDs, which are all that OHIF knows, to Orthanc's own id.

import { lookUp, orthanc } from "../api.js";

/** Return Orthanc's id of a series, or null where Orthanc does not have it. */
export async function orthancSeries({ study, series }) {
    const found = (await lookUp(series)).filter(({ Type }) => Type === "Series");
    if (found.length < 2) return found[0]?.ID ?? null;
    // The same series under two patients: each is in a study of its own.
    const studies = await Promise.all(found.map(({ ID }) => orthanc(`series/${ID}/study`)));
    const at = studies.findIndex(({ MainDicomTags }) => MainDicomTags.StudyInstanceUID === study);
    return found[at]?.ID ?? null;
}
