// SPDX-License-Identifier: GPL-2.0-or-later
// The map of guest memory: any part of it, at any moment.  The address bar's fragment holds the
// view (#t=1.5&from=0&to=4096), so that a link shows what one saw.
"use strict";
(() => {
  const ALL_PENDING = 255, PAGE = 4096, LEFT = 90, WIDTH = 1200, CELL = 8;
  const at = (id) => document.getElementById(id);

  const unpack = (text, Kind) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Kind(bytes.buffer);
  };

  const load = (raw) => {
    let first = 0;
    const slots = raw.slots.map(([gpa, pages]) => {
      const slot = { gpa, pages, first };
      first += pages;
      return slot;
    });
    return {
      ...raw, slots, pages: first,
      time: unpack(raw.time, Float32Array), page: unpack(raw.page, Uint32Array),
      count: unpack(raw.count, Uint32Array), state: unpack(raw.state, Uint8Array),
      faultTime: unpack(raw.fault_time, Float32Array),
      faultPage: unpack(raw.fault_page, Uint32Array),
      table: new Uint8Array(Math.ceil(first / raw.unit)), done: 0,
    };
  };

  const data = JSON.parse(at("data").textContent);
  const STATES = data.states;
  const RANK = data.rank;  // the rarest first, as in `cvmlab map`
  const runs = data.runs.map(load);
  const longest = Math.max(...runs.map((run) => run.seconds), 1e-3);
  let run = runs[0], time = longest, from = 0, to = run.pages, queued = false;

  // Guest page number -> position in the slots put end to end; -1 outside RAM.
  const position = (page) => {
    for (const slot of run.slots) {
      const offset = page - slot.gpa / PAGE;
      if (offset >= 0 && offset < slot.pages) return slot.first + offset;
    }
    return -1;
  };
  const address = (place) => {
    const slot = run.slots.findLast((one) => one.first <= place) ?? run.slots[0];
    return slot ? slot.gpa + (place - slot.first) * PAGE : 0;
  };

  const replay = () => {
    if (run.done && run.time[run.done - 1] > time) {
      run.table.fill(0);
      run.done = 0;
    }
    for (; run.done < run.time.length && run.time[run.done] <= time; run.done++) {
      const state = run.state[run.done];
      if (state === ALL_PENDING) {
        run.table.fill(0);
        continue;
      }
      const place = position(run.page[run.done]);
      if (place < 0) continue;
      const last = place + run.count[run.done];
      run.table.fill(state, Math.floor(place / run.unit), Math.ceil(last / run.unit));
    }
  };

  const counts = (low, high) => {
    const found = [0, 0, 0, 0];
    const end = Math.min(Math.max(Math.ceil(high / run.unit), Math.floor(low / run.unit) + 1),
                         run.table.length);
    for (let i = Math.floor(low / run.unit); i < end; i++) found[run.table[i]]++;
    return found;
  };

  const canvas = at("map"), pen = canvas.getContext("2d");
  const grid = () => {
    const columns = Math.floor(canvas.clientWidth / CELL);
    const rows = Math.floor(canvas.clientHeight / CELL);
    // Whole pages in a cell, of few sizes only: boundaries then stay put while zooming.
    const least = Math.max((to - from) / (columns * rows), 1);
    const power = 2 ** Math.ceil(Math.log2(least));
    const each = power > 2 && power * 0.75 >= least ? power * 0.75 : power;
    return { columns, rows, each };
  };

  const draw = () => {
    queued = false;
    replay();
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    pen.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const inks = STATES.map((name) => style.getPropertyValue("--" + name));
    const { columns, rows, each } = grid();
    const start = Math.floor(from / each) * each;
    for (let cell = 0; cell < columns * rows; cell++) {
      const low = start + cell * each;
      if (low >= run.pages) break;
      const found = counts(low, Math.min(low + each, run.pages));
      const total = found[0] + found[1] + found[2] + found[3];
      const front = RANK.find((state) => found[state]) ?? 0;
      const x = (cell % columns) * CELL, y = Math.floor(cell / columns) * CELL;
      pen.fillStyle = inks[0];
      pen.globalAlpha = 1;
      pen.fillRect(x, y, CELL - 1, CELL - 1);
      pen.fillStyle = inks[front];
      pen.globalAlpha = 0.35 + 0.65 * found[front] / total;
      pen.fillRect(x, y, CELL - 1, CELL - 1);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = style.getPropertyValue("--fault");
    pen.lineWidth = 2;
    for (let i = 0; i < run.faultTime.length; i++) {
      const cell = Math.floor((position(run.faultPage[i]) - start) / each);
      if (run.faultTime[i] > time || cell < 0 || cell >= columns * rows) continue;
      pen.strokeRect((cell % columns) * CELL, Math.floor(cell / columns) * CELL, CELL - 1, CELL - 1);
    }
    say();
  };

  const say = () => {
    at("clock").textContent = time.toFixed(3) + " s";
    at("time").value = 1000 * time / longest;
    const x = LEFT + (WIDTH - LEFT) * time / longest;
    at("now").setAttribute("x1", x);
    at("now").setAttribute("x2", x);
    const { each } = grid();
    at("span").textContent = `${hex(address(Math.floor(from)))} to ` +
      `${hex(address(Math.ceil(to) - 1) + PAGE)}, a cell is ${each * 4} KiB`;
    const whole = from === 0 && to === run.pages;
    document.documentElement.dataset.view =
      `${runs.indexOf(run)} ${time.toFixed(3)} ${Math.floor(from)} ${Math.ceil(to)}`;
    const view = time >= longest && whole ? "" :
      `#t=${time.toFixed(6)}&from=${Math.floor(from)}&to=${Math.ceil(to)}`;
    if (location.hash !== view) history.replaceState(null, "", view || location.pathname);
  };
  const redraw = () => {
    if (!queued) requestAnimationFrame(draw);
    queued = true;
  };

  const show = (low, high) => {
    const least = Math.min(run.pages, 64);
    const size = Math.min(Math.max(high - low, least), run.pages);
    from = Math.min(Math.max(low, 0), run.pages - size);
    to = from + size;
    redraw();
  };
  const zoom = (factor, around = (from + to) / 2) =>
    show(around - (around - from) * factor, around + (to - around) * factor);

  const placeOf = (event) => {
    const { columns, rows, each } = grid();
    const column = Math.min(Math.floor(event.offsetX / CELL), columns - 1);
    const row = Math.min(Math.floor(event.offsetY / CELL), rows - 1);
    return Math.floor(from / each) * each + (row * columns + column) * each;
  };
  const hex = (value) => "0x" + value.toString(16);

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.5 : 1 / 1.5, Math.min(placeOf(event), run.pages));
  }, { passive: false });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons & 1) {
      const { columns, each } = grid();
      const pages = (event.movementX / CELL + event.movementY / CELL * columns) * each;
      show(from - pages, to - pages);
      return;
    }
    const place = placeOf(event), { each } = grid();
    if (place >= run.pages) return;
    const found = counts(place, Math.min(place + each, run.pages));
    const said = STATES.map((name, i) => found[i] && `${found[i] * run.unit} ${name}`);
    at("where").textContent =
      `under the pointer ${hex(address(place))} + ${each * 4} KiB: ${said.filter(Boolean).join(", ")}`;
  });
  canvas.addEventListener("dblclick", () => show(0, run.pages));
  canvas.addEventListener("keydown", (event) => {
    const step = (to - from) / 8;
    const keys = {
      "+": () => zoom(0.5), "-": () => zoom(2), "0": () => show(0, run.pages),
      ArrowUp: () => show(from - step, to - step), ArrowDown: () => show(from + step, to + step),
    };
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  at("in").addEventListener("click", () => zoom(0.5));
  at("out").addEventListener("click", () => zoom(2));
  at("all").addEventListener("click", () => show(0, run.pages));
  at("time").addEventListener("input", (event) => {
    time = longest * event.target.value / 1000;
    redraw();
  });
  at("timeline").addEventListener("click", (event) => {
    const box = at("timeline").getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * WIDTH;
    time = Math.min(Math.max((x - LEFT) / (WIDTH - LEFT), 0), 1) * longest;
    redraw();
  });
  at("which")?.addEventListener("change", (event) => {
    run = runs[Number(event.target.value)];
    show(0, run.pages);
  });
  at("filter")?.addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of at("faults").tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const wish = new URLSearchParams(location.hash.slice(1));
  if (wish.has("t")) time = Math.min(Number(wish.get("t")), longest);
  if (wish.has("from")) show(Number(wish.get("from")), Number(wish.get("to") ?? run.pages));
  draw();
  document.documentElement.dataset.ready = "yes";
})();
