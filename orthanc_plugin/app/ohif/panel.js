// SPDX-License-Identifier: Apache-2.0
// The side panel: the analysis of whichever slide the viewer shows.

import { element, fill } from "../dom.js";
import { t } from "../i18n.js";
import { SlideAnalysis } from "./slide_analysis.js";
import { watchSlide } from "./viewed_slide.js";

/**
 * The panel as OHIF shows and hides it. What lies over the slide stays while the panel is folded away: a person
 * folds it to see more of the slide.
 */
export class AnalysisPanel {
    constructor(services) {
        this.services = services;
        this.stop = null;
        this.current = null;
        this.body = element("div.panel", { id: "panel" });
    }

    /** Fill an element of OHIF's. */
    mount(host) {
        // OHIF's style sheet stops at a shadow root, and ours does not reach into OHIF.
        const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
        const style = element("link", { rel: "stylesheet", href: new URL("panel.css", import.meta.url).href });
        root.replaceChildren(style, this.body);
        this.stop ??= watchSlide(this.services, (slide) => {
            this.current?.close();
            this.current = slide && new SlideAnalysis(this.body, slide, this.services.microscopyService);
            if (!slide) fill(this.body, element("p.muted", {}, t("ohif.no_slide")));
        });
    }

    /** Leave nothing behind: no timer, no request, no overlay. */
    close() {
        this.stop?.();
        this.current?.close();
        this.stop = null;
        this.current = null;
    }
}
