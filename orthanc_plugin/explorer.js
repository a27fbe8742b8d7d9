// SPDX-License-Identifier: Apache-2.0
//
// "AI analysis" in classic Orthanc Explorer: a panel on the pages of series and studies that hold a slide, and a
// dialog with the result. Whatever comes from DICOM or from a model is put on the page as text, never as HTML.

(function () {
  'use strict';

  const API = '../pathology';
  const SLIDE_MODALITY = 'SM';
  const OPEN_STATES = ['pending', 'processing', 'publishing'];
  const WAIT_SECONDS = 25;          // one slide on the page: its request is held open this long
  const WAIT_SECONDS_OF_MANY = 5;   // several: the one that is held must not hide the others' progress
  const LONGEST_PAUSE_SECONDS = 30;
  const NOT_STATED = 'not stated';  // who the slide is of is never left out silently

  const WORDS = {
    stages: {
      start: 'starting', open: 'opening the slide', model: 'loading the model', tissue: 'finding tissue',
      patches: 'laying patches', encode: 'reading the tissue', predict: 'predicting', heatmap: 'drawing the heatmap',
      dicom: 'writing DICOM results', publish: 'sending the result',
    },
    states: {
      pending: 'Waiting for a worker', processing: 'Running', publishing: 'Storing the result',
      completed: 'Finished', failed: 'Failed', cancelled: 'Cancelled', withdrawn: 'Withdrawn',
    },
    flags: {
      unapproved_model: 'This site has not approved the model.',
      source_replaced: 'The slide was stored again after this analysis; its pictures were removed.',
      little_tissue: 'There is little tissue on the slide.',
      few_patches: 'The result rests on few patches.',
      unusual_features: 'The slide looks unlike those the model was trained on.',
      out_of_distribution: 'The slide is unlike anything the model was trained on.',
      mpp_overridden: 'The scale was given by a person, not by the slide.',
      mpp_assumed: 'The slide does not state its scale; it was assumed.',
      mpp_mismatch: 'The scale of the slide does not fit the model well.',
      mpp_coarser_than_model: 'The slide is coarser than what the model was trained on.',
    },
  };

  const STYLE = `
    .pathology-panel { margin: 1em 0; }
    .pathology-row { padding: .7em .9em; margin-top: .5em; border: 1px solid #b9c7d3; border-radius: .5em;
      background: #f4f8fb; color: #1c2b36; text-shadow: none; font-size: 14px; }
    .pathology-row strong { display: block; overflow-wrap: anywhere; }
    .pathology-row button, .pathology-dialog button { font: inherit; font-size: 13px; cursor: pointer;
      padding: .35em .9em; margin: .5em .5em 0 0; border: 1px solid #2a6f97; border-radius: .35em;
      background: #fff; color: #1f5878; text-shadow: none; }
    .pathology-row button:hover, .pathology-dialog button:hover { background: #e3eff6; }
    .pathology-row button:focus-visible, .pathology-dialog button:focus-visible { outline: 3px solid #f2b134; }
    .pathology-row button.pathology-start { background: #2a6f97; color: #fff; }
    .pathology-row button.pathology-start:hover { background: #1f5878; }
    .pathology-row select { display: block; margin-top: .5em; padding: .25em; font: inherit; font-size: 13px; }
    .pathology-row small { display: block; margin-top: .3em; }
    .pathology-row .pathology-error { margin-top: .3em; color: #8c1c13; }
    .pathology-track { height: .5em; margin-top: .5em; border-radius: .25em; background: #d5e0e8; overflow: hidden; }
    .pathology-track > div { height: 100%; background: #2a6f97; transition: width .4s; }
    .pathology-dialog { width: min(1060px, 94vw); max-height: 92vh; padding: 0; border: 0; border-radius: .6em;
      box-shadow: 0 1em 4em rgba(0, 0, 0, .45); color: #1c2b36; background: #fff; text-shadow: none;
      font: 15px/1.45 Helvetica, Arial, sans-serif; }
    .pathology-dialog::backdrop { background: rgba(20, 30, 40, .6); }
    .pathology-dialog header { display: flex; align-items: center; justify-content: space-between; gap: 1em;
      padding: .7em 1.2em; background: #1f3a4d; color: #fff; position: sticky; top: 0; z-index: 1; }
    .pathology-dialog header h2 { margin: 0; font-size: 18px; }
    .pathology-dialog header button { margin: 0; }
    .pathology-warning { padding: .6em 1.2em; background: #fff3d6; color: #5c4300; border-bottom: 1px solid #ecd9a5;
      font-weight: bold; }
    .pathology-body { display: grid; grid-template-columns: minmax(280px, 5fr) 7fr; gap: 1.6em; padding: 1.2em; }
    @media (max-width: 760px) { .pathology-body { grid-template-columns: 1fr; } }
    .pathology-body h3 { margin: 1.3em 0 .35em; font-size: 12px; letter-spacing: .06em; text-transform: uppercase;
      color: #5a6f7f; }
    .pathology-body section > h3:first-child { margin-top: 0; }
    .pathology-call { display: flex; justify-content: space-between; gap: .5em; font-size: 26px; line-height: 1.2;
      font-weight: bold; overflow-wrap: anywhere; }
    .pathology-dialog a.pathology-page { display: inline-block; margin-top: 1em; color: #1f5878; }
    .pathology-bar { display: grid; grid-template-columns: minmax(5em, 10em) 1fr 4.2em; gap: .7em; align-items: center;
      margin-top: .4em; }
    .pathology-bar span { overflow-wrap: anywhere; }
    .pathology-bar span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
    .pathology-bar .pathology-track { margin: 0; height: .9em; }
    .pathology-abstained .pathology-track > div { background: #9aa9b4; }
    .pathology-note { margin: .7em 0 0; padding: .6em .9em; border-left: 4px solid #f2b134; background: #fff9ea; }
    .pathology-note p { margin: .2em 0; }
    .pathology-facts { display: grid; grid-template-columns: 8.5em 1fr; gap: .15em .7em; margin: 0; font-size: 14px; }
    .pathology-facts dt { color: #5a6f7f; }
    .pathology-facts dd { margin: 0; overflow-wrap: anywhere; }
    .pathology-heatmap img { display: block; max-width: 100%; max-height: 70vh; margin: 0 auto;
      border: 1px solid #d5e0e8; background: #fff; }
    .pathology-earlier { list-style: none; margin: 0; padding: 0; font-size: 14px; }
  `;

  // --- small tools ---------------------------------------------------------------------------------------------

  function element(name, properties, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key === 'class') made.className = value;
      else if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    // Strings become text nodes: no name from a slide or a model can bring markup along.
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  class Refusal extends Error {}

  async function ask(path, options) {
    let response;
    try {
      response = await fetch(path, { credentials: 'same-origin', cache: 'no-store', ...options });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new Error('Orthanc does not answer; check the network or whether the server is running.');
    }
    const value = await response.json().catch(() => null);
    if (response.ok && value !== null) return { value, retryAfter: Number(response.headers.get('Retry-After')) || 0 };
    const sentence = value && typeof value.error === 'string' ? value.error : null;
    if (response.status >= 500) throw new Error(sentence || `Orthanc answered with an error (${response.status}).`);
    throw new Refusal(sentence || `Orthanc refused this (${response.status}).`);
  }

  function post(path, value, signal) {
    return ask(path, {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value), signal,
    });
  }

  function pause(seconds, signal) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, seconds * 1000);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        reject(new DOMException('woken', 'AbortError'));
      }, { once: true });
    });
  }

  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 2 : 1)} %`;
  const plain = (text) => String(text).replace(/_/g, ' ');
  const isOpen = (request) => OPEN_STATES.includes(request.status);
  const onPage = (time) => (time ? new Date(time).toLocaleString() : '');

  function dicomDate(text) {
    return /^\d{8}$/.test(text || '') ? `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}` : text || '';
  }

  function track(share) {
    const filled = element('div');
    filled.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`;
    return element('div', {
      class: 'pathology-track', role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100',
      'aria-valuenow': String(Math.round(100 * share)),
    }, filled);
  }

  function stateInWords(request) {
    if (request.status === 'pending' && request.not_before && new Date(request.not_before) > new Date()) {
      return `Trying again at ${new Date(request.not_before).toLocaleTimeString()}`;
    }
    if (request.status === 'completed') return `Finished ${onPage(request.updated)}`;
    if (request.status !== 'processing') return WORDS.states[request.status] || plain(request.status);
    if (request.cancel_requested) return 'Cancelling';
    const stage = request.stage ? WORDS.stages[request.stage] || plain(request.stage) : 'starting';
    return `Running: ${stage}, ${Math.round(100 * (request.progress || 0))} %`;
  }

  // --- the panel on a page -------------------------------------------------------------------------------------

  class Panel {
    // `candidates` are series of one study that may be slides.
    constructor(host) {
      this.host = host;
      this.candidates = [];
      this.slides = [];
      this.models = [];
      this.chosen = {};
      this.requests = [];
      this.problem = null;
      this.notes = {};
      this.leave = new AbortController();
      this.woken = null;
      this.shown = null;
    }

    async run() {
      const { signal } = this.leave;
      let pauseSeconds = 1;
      while (!signal.aborted) {
        try {
          await this.load();
          await this.wait();
          pauseSeconds = 1;
        } catch (error) {
          if (signal.aborted) return;
          if (error.name === 'AbortError') continue;
          this.show(error.message);
          await pause(pauseSeconds * (0.5 + Math.random() / 2), signal).catch(() => null);
          pauseSeconds = Math.min(LONGEST_PAUSE_SECONDS, 2 * pauseSeconds);
        }
      }
    }

    async load() {
      if (this.models.length === 0) {
        const { value } = await ask(`${API}/models`, { signal: this.leave.signal });
        this.models = [...new Set(value.models.map((model) => model.name))].sort();
      }
      const study = encodeURIComponent(this.candidates[0].ParentStudy);
      const { value } = await ask(`${API}/requests/?study=${study}&limit=1000`, { signal: this.leave.signal });
      const shown = new Set(this.candidates.map((series) => series.ID));
      this.requests = value.requests.filter((request) => shown.has(request.series))
        .sort((a, b) => (a.created < b.created ? 1 : -1));
      // What an analysis has made is a result, not a slide to be analysed.
      const made = new Set(value.requests.flatMap((request) => (request.dicom || []).map((output) => output.series)));
      this.slides = this.candidates.filter((series) => !made.has(series.ID));
      this.show(null);
    }

    // Returns when an open request has changed, or something was done on the page.
    async wait() {
      const woken = new AbortController();
      this.woken = woken;
      const open = this.requests.filter(isOpen);
      if (open.length === 0) {
        await pause(24 * 3600, woken.signal);
        return;
      }
      const held = open.find((request) => request.status !== 'pending') || open[open.length - 1];
      const seconds = this.slides.length > 1 ? WAIT_SECONDS_OF_MANY : WAIT_SECONDS;
      const version = encodeURIComponent(held.version);
      const asked = Date.now();
      const { value, retryAfter } = await ask(
        `${API}/requests/${held.request_id}?wait=${seconds}&version=${version}`, { signal: woken.signal });
      // Where no place for a wait was free the same version comes back at once: then it is asked again later.
      if (value.request.version === held.version && Date.now() - asked < 1000 * seconds / 2) {
        await pause(retryAfter || 2, woken.signal);
      }
    }

    wake() {
      if (this.woken) this.woken.abort();
    }

    stop() {
      this.leave.abort();
      this.wake();
      this.host.remove();
    }

    async act(path, value) {
      try {
        const { value: answer } = await post(`${API}${path}`, value, this.leave.signal);
        this.problem = null;
        this.notes[answer.request.request_id] = answer.warnings || [];
      } catch (error) {
        if (error.name === 'AbortError') return;
        this.problem = error.message;
      }
      this.wake();
      this.show(null);
    }

    show(problem) {
      // Only what differs is drawn, so that a press of a button is never lost to a repaint.
      const state = JSON.stringify([problem, this.problem, this.slides.map((slide) => slide.ID), this.models,
        this.requests.map((request) => [request.request_id, request.version])]);
      if (state === this.shown) return;
      this.shown = state;
      const rows = this.slides.map((slide) => this.row(slide));
      const sentences = [this.problem, problem].filter(Boolean).map(
        (sentence) => element('div', { class: 'pathology-row', role: 'alert' },
          element('span', { class: 'pathology-error' }, sentence)));
      this.host.replaceChildren(...rows, ...sentences);
    }

    row(slide) {
      const requests = this.requests.filter((request) => request.series === slide.ID);
      const latest = requests[0];
      const title = this.slides.length > 1
        ? slide.MainDicomTags.SeriesDescription || `Slide ${slide.MainDicomTags.SeriesNumber || slide.ID}` : '';
      const row = element('div', { class: 'pathology-row', 'data-series': slide.ID },
        element('strong', null, title ? `AI analysis: ${title}` : 'AI analysis'));
      if (latest) row.append(element('div', { class: 'pathology-state', 'aria-live': 'polite' }, stateInWords(latest)));
      if (latest && latest.status === 'pending') {
        row.append(...(this.notes[latest.request_id] || []).map((note) => element('small', null, note)));
      }
      if (latest && latest.status === 'processing') {
        row.append(track(latest.progress || 0));
        if (latest.detail) row.append(element('small', null, latest.detail));
      }
      if (latest && latest.status !== 'completed' && latest.error) {
        row.append(element('div', { class: 'pathology-error' }, latest.error.message || plain(latest.error.code)));
      }
      row.append(...this.buttons(slide, requests));
      return row;
    }

    buttons(slide, requests) {
      const latest = requests[0];
      const button = (name, label, act) =>
        element('button', { type: 'button', class: `pathology-${name}`, onclick: act }, label);
      if (latest && isOpen(latest)) {
        const cancel = button('cancel', 'Cancel', () => this.act(`/requests/${latest.request_id}/cancel`, {}));
        return latest.status === 'publishing' || latest.cancel_requested ? [] : [cancel];
      }
      const finished = requests.filter((request) => request.status === 'completed');
      const analyse = (force) => {
        const model = this.chosen[slide.ID];
        return this.act('/analyze', { series: slide.ID, ...(model && { model }), ...(force && { force }) });
      };
      const show = () => new ResultDialog(slide, finished).open(finished[0].request_id);
      const result = finished.length ? button('result', 'Show the result', show) : null;
      const start = latest && latest.status === 'completed'
        ? button('again', 'Analyse again', () => analyse(true))
        : button('start', latest ? 'Try again' : 'AI analysis', () => analyse(false));
      return [this.choice(slide), result, start].filter(Boolean);
    }

    // Several models that live workers offer: the site's own choice stands first.
    choice(slide) {
      if (this.models.length < 2) return null;
      const names = ['', ...this.models];
      const select = element('select', {
        class: 'pathology-model', 'aria-label': 'Model', onchange: () => { this.chosen[slide.ID] = select.value; },
      }, ...names.map((name) => element('option', { value: name }, name || 'default model')));
      select.value = this.chosen[slide.ID] || '';
      return select;
    }
  }

  // --- the result ----------------------------------------------------------------------------------------------

  class ResultDialog {
    constructor(slide, requests) {
      this.slide = slide;
      this.requests = requests;
      this.dialog = element('dialog', { class: 'pathology-dialog', 'aria-label': 'Result of the AI analysis' });
      this.dialog.addEventListener('close', () => this.dialog.remove());
    }

    async open(requestId) {
      // jQuery Mobile hides what is outside its pages from nobody; a modal dialog lies above all of it.
      if (!this.dialog.isConnected) {
        document.body.append(this.dialog);
        this.dialog.showModal();
      }
      this.frame([element('div', { class: 'pathology-body' }, 'Loading ...')]);
      try {
        const [{ value }, { value: study }] = await Promise.all([
          ask(`${API}/requests/${requestId}`), ask(`../studies/${this.slide.ParentStudy}`),
        ]);
        this.frame(value.request.result
          ? this.result(value.request, study)
          : [element('div', { class: 'pathology-body' }, 'This request has no result.')]);
      } catch (error) {
        this.frame([element('div', { class: 'pathology-body', role: 'alert' }, error.message)]);
      }
    }

    frame(content) {
      this.dialog.replaceChildren(
        element('header', null, element('h2', null, 'AI analysis'),
          element('button', { type: 'button', class: 'pathology-close', onclick: () => this.dialog.close() }, 'Close')),
        ...content);
    }

    result(request, study) {
      const { result } = request;
      const use = intendedUse(result.model || {});
      const warning = use.isDemonstration
        ? element('div', { class: 'pathology-warning' }, 'Demonstration, not for clinical use.') : null;
      return [
        warning,
        element('div', { class: 'pathology-body' },
          element('section', null, ...this.identity(result, study), ...call(result, request),
            ...provenance(request, use), resultPage(request), ...this.earlier(request)),
          heatmap(request)),
      ].filter(Boolean);
    }

    identity(result, study) {
      const patient = study.PatientMainDicomTags || {};
      const slide = result.slide || {};
      const size = slide.width && slide.height ? `${slide.width} x ${slide.height} px` : '';
      const scale = Array.isArray(slide.mpp) && slide.mpp[0] ? `${Number(slide.mpp[0]).toFixed(3)} µm/px` : '';
      return [
        element('h3', null, 'Slide'),
        facts([
          ['Container', slide.container_id || NOT_STATED],
          ['Patient', plainName(patient.PatientName) || NOT_STATED],
          ['Patient ID', patient.PatientID || NOT_STATED],
          ['Study', [dicomDate(study.MainDicomTags.StudyDate), study.MainDicomTags.StudyDescription]
            .filter(Boolean).join(', ') || NOT_STATED],
          ['Series', this.slide.MainDicomTags.SeriesDescription],
          ['Size', [size, scale].filter(Boolean).join(', ')],
        ]),
      ];
    }

    earlier(current) {
      const others = this.requests.filter((request) => request.request_id !== current.request_id);
      if (others.length === 0) return [];
      const items = others.map((request) => element('li', null, element('button', {
        type: 'button', class: 'pathology-other', onclick: () => this.open(request.request_id),
      }, `${onPage(request.created)}, ${request.model || 'no model named'}`)));
      return [element('h3', null, 'Other results of this slide'),
        element('ul', { class: 'pathology-earlier' }, ...items)];
    }
  }

  function plainName(name) {
    return (name || '').replace(/\^+/g, ' ').trim();
  }

  function facts(pairs) {
    const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== '');
    return element('dl', { class: 'pathology-facts' },
      ...shown.flatMap(([name, value]) => [element('dt', null, name), element('dd', null, String(value))]));
  }

  function intendedUse(model) {
    const use = model.use === 'unknown' ? 'permitted use not known' : model.use;
    const text = [model.intended_use, use].filter((part) => typeof part === 'string').join('; ');
    return { text, isDemonstration: /demonstration|not for clinical|research use/i.test(text) };
  }

  function call(result, request) {
    const quality = result.quality || {};
    const abstained = quality.status === 'abstained';
    const probabilities = Object.entries(result.probabilities || {}).sort((a, b) => b[1] - a[1]);
    const bars = probabilities.map(([name, share]) => element('div', { class: 'pathology-bar' },
      element('span', null, plain(name)), track(share), element('span', null, percent(share))));
    const share = (result.probabilities || {})[result.predicted_class];
    const headline = abstained ? ['No statement'] : [
      element('span', null, plain(result.predicted_class)),
      share === undefined ? null : element('span', null, percent(share)),
    ];
    return [
      element('h3', null, 'Result'),
      element('div', { class: 'pathology-call' }, ...headline),
      ...remarks(quality, request.flags || [], abstained),
      element('h3', null, abstained ? 'Probabilities (not to be relied on)' : 'Probabilities'),
      element('div', { class: abstained ? 'pathology-abstained' : '' }, ...bars),
    ];
  }

  function remarks(quality, requestFlags, abstained) {
    const flags = [...new Set([...(quality.flags || []), ...requestFlags])];
    const sentences = flags.map((flag) => WORDS.flags[flag] || `Flag: ${plain(flag)}.`);
    if (quality.reason) sentences.unshift(String(quality.reason));
    else if (abstained) sentences.unshift('The model abstains on this slide.');
    else if (quality.status === 'limited') sentences.unshift('Read this result with care.');
    if (sentences.length === 0) return [];
    return [element('div', { class: 'pathology-note', role: 'note' },
      ...sentences.map((sentence) => element('p', null, sentence)))];
  }

  function provenance(request, use) {
    const { result } = request;
    const model = result.model || {};
    const patches = result.patches || {};
    const tissue = patches.tissue_mm2
      ? `${Number(patches.tissue_mm2).toFixed(1)} mm² in ${patches.count} patches` : '';
    const seconds = Object.values(result.timings_s || {}).reduce((sum, value) => sum + Number(value || 0), 0);
    return [
      element('h3', null, 'How it was made'),
      facts([
        ['Model', [model.name, model.version].filter(Boolean).join(' ')],
        ['Checkpoint', (model.sha256 || '').slice(0, 16)],
        ['Encoder', model.encoder && model.encoder.name],
        ['Intended use', use.text],
        ['Tissue', tissue],
        ['Finished', onPage(request.updated)],
        ['Time', seconds ? `${seconds.toFixed(1)} s` : ''],
        ['Worker', request.worker_id],
        ['Request', request.request_id],
      ]),
    ];
  }

  function resultPage(request) {
    const address = `${API}/app/result.html?request=${encodeURIComponent(request.request_id)}`;
    return element('a', { class: 'pathology-page', href: address, target: '_blank', rel: 'noopener' },
      'Open the result on the slide');
  }

  function heatmap(request) {
    const stored = (request.artifacts || []).some((artifact) => artifact.name === 'heatmap.png');
    if (!stored) return element('section', { class: 'pathology-heatmap' }, 'There is no heatmap of this result.');
    const address = `${API}/requests/${request.request_id}/artifacts/heatmap.png`;
    const picture = element('img', { src: address, alt: 'Attention heatmap over the slide' });
    const section = element('section', { class: 'pathology-heatmap' }, element('h3', null, 'Where the model looked'),
      element('a', { href: address, target: '_blank', rel: 'noopener', title: 'Open the heatmap by itself' }, picture));
    picture.addEventListener('error', () => section.replaceChildren('The heatmap could not be loaded.'));
    return section;
  }

  // --- where it appears ----------------------------------------------------------------------------------------

  let panel = null;

  function leavePage() {
    if (panel) panel.stop();
    panel = null;
  }

  function slidesOf(series) {
    return series.filter((one) => one && one.MainDicomTags && one.MainDicomTags.Modality === SLIDE_MODALITY);
  }

  async function enterPage(level) {
    leavePage();
    const id = $.mobile.pageData && $.mobile.pageData.uuid;
    if (!id) return;
    const host = element('div', { class: 'pathology-panel', id: `pathology-${level}` });
    const entered = new Panel(host);
    panel = entered;
    try {
      const { value } = await ask(level === 'series' ? `../series/${id}` : `../studies/${id}/series`);
      entered.candidates = slidesOf(level === 'series' ? [value] : value);
    } catch (error) {
      return; // Orthanc Explorer itself says that the resource is gone
    }
    if (panel !== entered || entered.candidates.length === 0) return;
    document.getElementById(`${level}-info`).after(host);
    entered.run();
  }

  document.head.append(element('style', null, STYLE));
  for (const level of ['series', 'study']) {
    $(`#${level}`).live('pagebeforeshow', () => enterPage(level));
    $(`#${level}`).live('pagebeforehide', leavePage);
  }
  // Somebody else may have asked or withdrawn meanwhile: a page that is looked at again is read again.
  document.addEventListener('visibilitychange', () => {
    if (panel && document.visibilityState === 'visible') panel.wake();
  });
}());
