// SPDX-License-Identifier: Apache-2.0
// From the UIDs, which are all that OHIF knows, to Orthanc's own ids.

import { lookUp, orthanc } from "../api.js";

/** Return Orthanc's ids of a series: several where it was copied to another patient with its UIDs. */
export async function orthancSeries({ study, series }) {
    const found = (await lookUp(series)).filter(({ Type }) => Type === "Series").map(({ ID }) => ID);
    if (found.length < 2) return found;
    const studies = await Promise.all(found.map((id) => orthanc(`series/${id}/study`)));
    return found.filter((_, at) => studies[at].MainDicomTags.StudyInstanceUID === study);
}
