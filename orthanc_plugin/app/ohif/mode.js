// SPDX-License-Identifier: Apache-2.0
// OHIF's own microscopy mode with our panel in it. Modes named in app-config.js are read before the built-in
// ones and the first of an id wins, so this one has the id of the mode that it wraps.

import { PANEL } from "./extension.js";

const BUILT_IN = "@ohif/mode-microscopy";

function withPanel(layout) {
    const props = { ...layout.props, rightPanels: [PANEL, ...(layout.props.rightPanels ?? [])] };
    return { ...layout, props };
}

export default {
    id: BUILT_IN,
    async modeFactory(options) {
        const [builtIn] = await options.loadModules([BUILT_IN]);
        const mode = await builtIn.modeFactory(options);
        const routes = mode.routes.map((route) => ({
            ...route,
            layoutTemplate: (...context) => withPanel(route.layoutTemplate(...context)),
        }));
        return { ...mode, routes };
    },
};
