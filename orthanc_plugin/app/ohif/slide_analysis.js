// SPDX-License-Identifier: Apache-2.0
// One slide in the side panel: which it is, the button, the progress, the result, and what lies over the slide.

import { analyseKnowingly } from "../again.js";
import { artifactUrl, getRequest, listModels, listRequests } from "../api.js";
import { element, fill } from "../dom.js";
import { laterWords, refusalWords } from "../failures.js";
import { follow } from "../follow.js";
import { Heat } from "../heat.js";
import { t } from "../i18n.js";
import { stateButtons } from "../opinions.js";
import { showPatches } from "../patches.js";
import { loadLevels } from "../pyramid.js";
import { beside, isOpen, standing, tells } from "../requests.js";
import * as sections from "../sections.js";
import { slideFacts } from "../slide_facts.js";
import { AttentionMap } from "./attention_map.js";
import { orthancSeries } from "./orthanc_series.js";
import { SlideOverlay } from "./overlay.js";
import { FIRST_OPACITY, overlayControls } from "./overlay_controls.js";

// A finished request changes only by a person, or by another one that is begun elsewhere.
const LOOK_AGAIN_S = 60;
const AT_ONCE_S = 1;
const MOST_LISTED = 1000;

function part(name) {
    return element(`section.${name}`, { "data-part": name });
}

function emptyPatches() {
    return element("section.patches", { hidden: true }, element("h3", {}, t("patches.title")), element("div.strip"));
}

/** One slide's part of the panel: everything here ends with `close`. */
export class SlideAnalysis {
    #closed = new AbortController();
    #request = null;
    #others = [];
    #shown = null;

    constructor(host, slide, microscopyService) {
        this.host = host;
        this.slide = slide;
        this.microscopyService = microscopyService;
        this.map = null;
        this.overlay = null;
        this.identity = part("identity");
        this.notice = element("p.notice", { role: "status", hidden: true });
        this.beside = element("div", { hidden: true });
        this.state = part("state");
        this.result = part("result");
        this.patches = emptyPatches();
        this.details = part("details");
        this.start = part("start");
        const found = [this.state, this.result, this.patches, this.details];
        fill(host, this.identity, this.notice, this.beside, ...found, this.start);
        this.#run();
    }

    close() {
        this.#closed.abort();
        this.#uncover();
    }

    /** Take everything away from the slide. */
    #uncover() {
        this.overlay?.remove();
        this.map?.hide();
        this.overlay = null;
        this.map = null;
    }

    async #run() {
        const { signal } = this.#closed;
        await follow(
            async (hidden) => {
                if (signal.aborted) return null;
                return this.#ask(AbortSignal.any([hidden, signal]));
            },
            (error, pause) => {
                this.#failed(error, pause);
                return error.passes && !signal.aborted;
            },
        );
    }

    async #ask(signal) {
        if (this.facts === undefined) await this.#identify(signal);
        if (this.orthancId === null) return null;
        const before = this.#request;
        const request = await this.#current(signal);
        this.#tell("");
        if (request === null) {
            this.#showStart();
            return LOOK_AGAIN_S;
        }
        const news = tells(before) !== tells(request);
        if (news || this.#isUnshown()) await this.#changed(request);
        else this.#showBeside();
        if (!isOpen(request)) return LOOK_AGAIN_S;
        return news ? 0 : AT_ONCE_S;
    }

    async #identify(signal) {
        const found = await orthancSeries(this.slide);
        // Whose of several the viewer shows nobody knows, and one patient's result is not the other's.
        this.orthancId = found.length === 1 ? found[0] : null;
        if (this.orthancId === null) {
            this.#tell(t(found.length ? "ohif.several_patients" : "ohif.not_in_orthanc"));
            return;
        }
        // Without Orthanc's own word the panel still names the slide by what the request says.
        this.facts = await slideFacts(this.orthancId, { signal }).catch((error) => {
            if (error.name === "AbortError") throw error;
            return null;
        });
        this.#showIdentity();
    }

    /** Follow the request that is shown while it runs; else see by which one the slide is known. */
    async #current(signal) {
        if (this.#request !== null && isOpen(this.#request)) {
            const { request_id: id, version } = this.#request;
            const { request } = await getRequest(id, { version, signal });
            if (isOpen(request)) return request;
        }
        const { requests } = await listRequests({ series: this.orthancId, limit: MOST_LISTED }, signal);
        this.#others = requests;
        const one = standing(requests);
        if (one === null) return null;
        return (await getRequest(one.request_id, { signal })).request;
    }

    #showIdentity() {
        const known = this.#request ?? { series_instance_uid: this.slide.series };
        const { container, details } = sections.identity(known, this.facts);
        fill(this.identity, element("h2", {}, container), details);
    }

    /** Another analysis of the slide may say more than this one, or something else. */
    #showBeside() {
        const other = beside(this.#request, this.#others);
        this.beside.hidden = other === null;
        if (other === null) return;
        const link = resultLink(other, t("beside.show"), "beside-page");
        fill(this.beside, sections.besideThis(this.#request, other, link));
    }

    async #changed(request) {
        this.#request = request;
        this.#showIdentity();
        this.#showBeside();
        this.state.hidden = request.status === "completed";
        this.state.dataset.status = request.status;
        const told = (error) => this.#failed(error, 0);
        fill(
            this.state,
            isOpen(request) ? sections.progress(request) : sections.ending(request),
            element("div.buttons", {}, stateButtons(request, (after) => this.#adopt(after), told)),
        );
        this.#showStart();
        await this.#showResult();
    }

    /** Show what a person's action made of the request, and follow that from now on. */
    async #adopt(request) {
        if (this.#closed.signal.aborted) return;
        const waited = this.#closed;
        this.#closed = new AbortController();
        waited.abort();
        await this.#changed(request).catch((error) => this.#failed(error, 0));
        this.#run();
    }

    #isComplete() {
        return this.#request.status === "completed" && this.#request.result !== null;
    }

    /** Whether there is a result whose pictures could not be had. */
    #isUnshown() {
        return this.#isComplete() && this.#shown === null;
    }

    async #showResult() {
        const request = this.#request;
        const complete = this.#isComplete();
        if (complete && this.#shown === request.request_id) return;
        this.result.hidden = !complete;
        this.details.hidden = !complete;
        this.#removePictures();
        this.#shown = complete ? request.request_id : null;
        if (!complete) return;
        const wrong = sections.contradictions(request, this.facts, [this.slide]);
        if (wrong.length) this.#showAlarm(wrong);
        else await this.#showAllFindings(request);
    }

    /** Show the findings; where a picture cannot be had just now, they are shown again at the next look. */
    async #showAllFindings(request) {
        try {
            await this.#showFindings(request);
        } catch (error) {
            if (error.passes) {
                this.#shown = null;
                throw error;
            }
            this.#failed(error, 0);
        }
    }

    /** Take away what shows where another result looked; what is still loading of it fills a strip that is gone. */
    #removePictures() {
        this.#uncover();
        const patches = emptyPatches();
        this.patches.replaceWith(patches);
        this.patches = patches;
    }

    #showAlarm(sentences) {
        this.details.hidden = true;
        const list = element("ul", {}, sentences.map((sentence) => element("li", {}, sentence)));
        fill(this.result, element("div.alarm", { role: "alert" }, element("strong", {}, t("alarm.title")), list));
    }

    async #showFindings(request) {
        const { result } = request;
        const demonstration = result.model?.use === "demonstration";
        const controls = element("div.controls");
        fill(
            this.result,
            demonstration ? element("p.demonstration", { id: "demonstration" }, t("banner.demonstration")) : null,
            sections.verdict(result),
            sections.quality(request),
            sections.probabilities(result),
            element("p.links", {}, resultLink(request, t("panel.open"), "result-page"), worklistLink()),
            controls,
        );
        fill(this.details, sections.extent(result), sections.model(result));
        this.overlay = new SlideOverlay(this.slide);
        this.overlay.patches = result.top_patches ?? [];
        // Neither waits for the other: either may fail.
        await Promise.all([this.#showPatches(request, this.overlay), this.#showHeat(request, this.overlay, controls)]);
    }

    async #showPatches(request, overlay) {
        const strip = this.patches.querySelector(".strip");
        const levels = await loadLevels(this.orthancId, this.facts?.tags ?? []);
        await showPatches(strip, request, levels, (index) => overlay.jumpTo(index));
    }

    async #showHeat(request, overlay, controls) {
        if (!request.artifacts.some(({ name }) => name === "overlay.png")) return;
        const heat = await Heat.load(artifactUrl(request.request_id, "overlay.png"));
        if (this.overlay !== overlay) return;
        overlay.heat = heat.canvas;
        fill(controls, overlayControls(overlay, heat), this.#mapSwitch(request));
    }

    #mapSwitch(request) {
        if (!(request.dicom ?? []).some(({ modality }) => modality !== "SR")) return null;
        this.map = new AttentionMap(this.slide.viewer, this.microscopyService, request);
        const { map } = this;
        const shown = element("input", { type: "checkbox", id: "attention-map" });
        shown.onchange = async () => {
            if (!shown.checked) {
                map.hide();
                return;
            }
            try {
                if (!(await map.show(FIRST_OPACITY))) this.#tell(t("ohif.no_map"));
            } catch (error) {
                shown.checked = false;
                this.#failed(error, 0);
            }
        };
        return element("label", {}, shown, t("ohif.map"));
    }

    async #showStart() {
        const running = this.#request !== null && isOpen(this.#request);
        this.start.hidden = running;
        if (running) return;
        let models = [];
        try {
            models = await listModels(this.#closed.signal);
        } catch (error) {
            if (error.name === "AbortError") return;
            this.#failed(error, 0);
        }
        const choice = modelChoice(models);
        const again = this.#request?.status === "completed";
        const button = element("button.primary", { type: "button", id: "analyse" }, t(again ? "panel.again" : "panel.start"));
        button.onclick = () => this.#analyse(button, choice);
        fill(
            this.start,
            this.#request === null ? element("p.muted", {}, t("panel.none")) : null,
            choice ? element("label", {}, t("panel.model"), choice) : null,
            models.length ? null : element("p.muted", {}, t("panel.no_workers")),
            button,
        );
    }

    async #analyse(button, choice) {
        button.disabled = true;
        const wanted = { study_instance_uid: this.slide.study, series_instance_uid: this.slide.series };
        if (choice) wanted.model = choice.value;
        try {
            const answer = await analyseKnowingly(this.host, wanted, this.#request ? [this.#request] : []);
            if (answer !== null) await this.#adopt(answer.request);
        } catch (error) {
            this.#failed(error, 0);
        } finally {
            button.disabled = false;
        }
    }

    #tell(text) {
        this.notice.hidden = !text;
        this.notice.textContent = text;
    }

    #failed(error, pause) {
        this.#tell(error.passes && pause > 0 ? laterWords(error, pause) : refusalWords(error));
    }
}

function resultLink(request, text, id) {
    const page = new URL(`../result.html?request=${encodeURIComponent(request.request_id)}`, import.meta.url);
    return element("a", { href: page.href, target: "_blank", rel: "noopener", id }, text);
}

function worklistLink() {
    const page = new URL("../worklist.html", import.meta.url);
    return element("a", { href: page.href, target: "_blank", rel: "noopener", id: "worklist" }, t("nav.worklist"));
}

function modelChoice(models) {
    const names = [...new Set(models.map(({ name }) => name))];
    if (names.length < 2) return null;
    return element("select", { id: "model" }, names.map((name) => element("option", { value: name }, name)));
}
