// SPDX-License-Identifier: Apache-2.0
// Where the panel stands in Orthanc Explorer: on the page of a series that is a slide, or of a study with one.

import { orthanc } from "../api.js";
import { element } from "../dom.js";
import { hideOwnAttachments } from "./attachments.js";
import { Panel } from "./panel.js";

const SLIDE_MODALITY = "SM";
let shown = null;

/** Take the panel away; its questions end with it. */
export function leave() {
    shown?.stop();
    shown = null;
}

/** Return a host whose inside Orthanc Explorer's own styles do not reach, put behind its facts of a page. */
function hostOn(level) {
    const host = element("div.pathology-panel", { id: `pathology-${level}` });
    const style = element("link", { rel: "stylesheet", href: new URL("explorer.css", import.meta.url).href });
    const body = element("div.panel");
    host.attachShadow({ mode: "open" }).append(style, body);
    document.getElementById(`${level}-info`).after(host);
    return { host, body };
}

/**
 * Show the panel on the page of a series or a study, where there is a slide.
 * @param {string} level "series" or "study"
 * @param {string} id of Orthanc
 * @param {{archive: number, first: number}} ownAttachments numbers of the plugin's own
 */
export async function enter(level, id, ownAttachments) {
    leave();
    hideOwnAttachments(ownAttachments);
    if (!id) return;
    const entered = { stop: () => (entered.left = true), left: false };
    shown = entered;
    let found;
    try {
        found = await orthanc(level === "series" ? `series/${id}` : `studies/${id}/series`);
    } catch {
        return; // Orthanc Explorer itself says that the resource is gone
    }
    const slides = [found].flat().filter((one) => one?.MainDicomTags?.Modality === SLIDE_MODALITY);
    if (entered.left || !slides.length) return;
    const { host, body } = hostOn(level);
    const panel = new Panel(body, slides);
    shown = {
        stop() {
            panel.stop();
            host.remove();
        },
    };
}
