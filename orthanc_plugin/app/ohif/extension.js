// SPDX-License-Identifier: Apache-2.0
// The OHIF extension: a side panel with the analysis of the slide in the viewer. OHIF imports this file by its
// address from its app-config.js; nothing is built.

import { t } from "../i18n.js";
import { AnalysisPanel } from "./panel.js";

export const EXTENSION_ID = "orthanc-pathology";

/** Name of the panel in a mode's `rightPanels`. */
export const PANEL = `${EXTENSION_ID}.panelModule.analysis`;

/**
 * Return a React component that hands its one element to the panel.
 *
 * OHIF gives its extensions no React, so the element is written out as React 18 makes it.
 */
function component(content) {
    const ref = (host) => host && content.mount(host);
    const style = { height: "100%", overflow: "auto" };
    return () => ({
        $$typeof: Symbol.for("react.element"),
        type: "div",
        key: null,
        ref,
        props: { style, "data-cy": "pathology-panel" },
        _owner: null,
    });
}

let panel = null;

export default {
    id: EXTENSION_ID,
    getPanelModule({ servicesManager }) {
        panel = new AnalysisPanel(servicesManager.services);
        return [
            {
                name: "analysis",
                iconName: "tab-patient-info",
                iconLabel: t("panel.title"),
                label: t("panel.title"),
                component: component(panel),
            },
        ];
    },
    onModeExit() {
        panel?.close();
    },
};
