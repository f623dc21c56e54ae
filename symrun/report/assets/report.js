// What answers to the pointer and to keys: choices, tables, colours. The numbers come from the
// page's JSON; the choices live in the address, behind #. charts.js and training.js, which come
// before, draw.
(() => {
  "use strict";
  const root = document.documentElement;
  const get = (id) => document.getElementById(id);
  const runs = JSON.parse(get("data").textContent).runs;
  const signed = (text) => text.replace(/^-/, "−");
  const exact = (value) => (value === null ? "–" : signed(Number(value.toPrecision(7)).toString()));
  const small = (value) => (value === null ? "–" : signed(value.toExponential(1)));
  const { grouped, curvesOf, linesOf, chart, rounding } = charts;

  const isIdentity = (run, law) => run.laws.find((one) => one.name === law).identity;

  function drawFirst(run) {
    for (const figure of document.querySelectorAll("#first figure")) {
      const group = run.groups[run.first[figure.dataset.place]];
      figure.hidden = !group;
      if (!group) continue;
      const places = group.units
        .map((_, place) => place)
        .filter((place) => place % 2 === 0 || group.units.length < 6);
      figure.querySelector("h3").textContent =
        (group.symmetry[0].toUpperCase() + group.symmetry.slice(1)).replace("_", " ");
      figure.querySelector(".merit").textContent = run.numbers[group.symmetry];
      figure.querySelector("figcaption").textContent =
        `${group.group}, ${places.length} of ${grouped(group.of)} units${group.moved ? "" : ": none moved off its baseline by more than 100 roundings"}`;
      const host = figure.querySelector(".chart");
      host.setAttribute("aria-label", `${group.symmetry}, ${group.group}: ${group.words}`);
      chart(host, group.steps, linesOf(group, run.law, places), undefined, rounding(group));
    }
    document.querySelector("[data-law]").textContent = run.law;
    document.querySelector("[data-law-word]").textContent = isIdentity(run, run.law)
      ? "the identity"
      : "predicted by";
  }

  // Choices: run, symmetry, group (a place among the run's), units (places), law, record
  const state = {};
  const wanted = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

  function options(select, pairs, chosen) {
    select.replaceChildren(
      ...pairs.map(
        ([value, text]) => new Option(text, value, false, String(value) === String(chosen)),
      ),
    );
  }

  function choose(changes) {
    Object.assign(state, changes);
    if (!runs[state.run]?.groups.length) state.run = runs.findIndex((run) => run.groups.length);
    const run = runs[state.run];
    const symmetries = [...new Set(run.first.map((place) => run.groups[place].symmetry))];
    if (!symmetries.includes(state.symmetry)) state.symmetry = symmetries[0];
    const alike = run.groups
      .map((group, place) => [place, group.group])
      .filter(([place]) => run.groups[place].symmetry === state.symmetry);
    if (!alike.some(([place]) => place === state.group)) {
      state.group = run.first.find((place) => run.groups[place].symmetry === state.symmetry);
    }
    const group = run.groups[state.group];
    if ("run" in changes || "symmetry" in changes || "group" in changes || !state.units)
      state.units = changes.units ?? spread(group);
    state.units = state.units.filter((place) => place < group.units.length);
    if (!group.laws.includes(state.law))
      state.law = group.laws.includes(run.law) ? run.law : group.laws[0];
    state.record = Math.min(changes.record ?? state.record ?? Infinity, group.steps.length - 1);
    options(
      get("run"),
      runs.map((one, place) => [place, one.name]).filter(([place]) => runs[place].groups.length),
      state.run,
    );
    options(
      get("symmetry"),
      symmetries.map((name) => [name, name]),
      state.symmetry,
    );
    options(get("group"), alike, state.group);
    options(
      get("law"),
      group.laws.map((law) => [law, isIdentity(run, law) ? `${law}, an identity` : law]),
      state.law,
    );
    showUnits(group);
    drawExplorer(run, group);
  }

  const spread = (group) => [
    ...new Set([0, 1 / 3, 2 / 3, 1].map((share) => Math.round(share * (group.units.length - 1)))),
  ];

  function showUnits(group) {
    const judged = group.unexplained[state.law];
    get("stated").textContent =
      `(${group.units.length} of ${grouped(group.of)}, ${group.moved ? "the worst by 1 − R² first, evenly by rank to the best" : "none of which left its baseline"}; ${group.steps.length} records)`;
    const focused = document.activeElement?.dataset?.unit;
    get("units").replaceChildren(
      ...group.names.map((unit, place) => {
        const [label, box] = [document.createElement("label"), document.createElement("input")];
        box.type = "checkbox";
        box.dataset.unit = place;
        box.checked = state.units.includes(place);
        label.style.setProperty("--unit", `var(--u${place % 12})`);
        label.append(box, judged ? `${unit} · ${small(judged[place])}` : unit);
        return label;
      }),
    );
    if (focused !== undefined) get("units").querySelector(`[data-unit="${focused}"]`)?.focus();
  }

  function drawExplorer(run, group) {
    const { off } = curvesOf(group);
    const identity = state.law && isIdentity(run, state.law);
    const word = identity ? "the identity" : "predicted";
    get("curves-title").textContent = state.law
      ? `Measured (solid) and ${identity ? "what the identity gives" : "predicted"} (dashed)`
      : "Measured; no law predicts these units";
    get("off-title").textContent = `Measured − ${word}`;
    get("predicted-head").textContent = word;
    chart(
      get("curves"),
      group.steps,
      linesOf(group, state.law, state.units),
      move,
      rounding(group),
    );
    get("off").parentElement.hidden = !state.law;
    if (state.law) {
      const lines = state.units.map((place) => ({
        label: `unit ${group.names[place]}`,
        values: off[state.law][place],
        colour: `--u${place % 12}`,
      }));
      chart(get("off"), group.steps, lines, move);
    }
    const name = `${group.symmetry}, ${group.group}`;
    get("curves").setAttribute(
      "aria-label",
      `Measured and ${word}, ${name}: ${group.words} The table below has the numbers.`,
    );
    get("off").setAttribute(
      "aria-label",
      `Measured − ${word}, ${name}. The table below has the numbers.`,
    );
    get("record").max = group.steps.length - 1;
    point(state.record, false);
  }

  const move = (record) => point(record, false);

  // Show one record in the table, on the slider and in both charts
  function point(record, byKey) {
    const group = runs[state.run].groups[state.group];
    const { measured, magnitude, off } = curvesOf(group);
    state.record = record;
    const slider = get("record");
    slider.value = record;
    const step = `update ${grouped(group.steps[record])}`;
    slider.setAttribute("aria-valuetext", step);
    get("step").textContent = step;
    const lines = state.units.map((place) => {
      const [value, size] = [measured[place][record], magnitude[place][record]];
      const missed = off[state.law]?.[place][record] ?? null;
      const residual = missed === null ? null : missed === 0 ? 0 : Math.abs(missed) / size;
      return [
        group.names[place],
        exact(value),
        missed === null ? "–" : exact(value - missed),
        small(missed),
        small(residual),
        small(group.unexplained[state.law]?.[place] ?? null),
      ];
    });
    get("readout").tBodies[0].replaceChildren(
      ...lines.map((cells) => {
        const row = document.createElement("tr");
        cells.forEach((text, place) => {
          const cell = document.createElement(place ? "td" : "th");
          if (place) cell.className = "number";
          else cell.scope = "row";
          cell.textContent = text;
          row.append(cell);
        });
        return row;
      }),
    );
    if (byKey)
      get("live").textContent =
        `${step}. ${lines.map((cells) => `Unit ${cells[0]}: measured ${cells[1]}, ${get("predicted-head").textContent} ${cells[2]}, residual ${cells[4]}.`).join(" ")}`;
    for (const host of [get("curves"), get("off")]) {
      if (host.chart && !(host.matches(":hover") && !byKey)) {
        host.chart.setCursor(
          { left: host.chart.valToPos(group.steps[record], "x"), top: 0 },
          false,
        );
      }
    }
    remember();
  }

  function remember() {
    const { run, symmetry, group, law, record } = state;
    const kept = new URLSearchParams({
      run,
      symmetry,
      group,
      units: state.units.join("."),
      law: law ?? "",
      record,
    });
    for (const box of document.querySelectorAll("[data-finds]"))
      if (box.value) kept.set("find", box.value);
    for (const head of document.querySelectorAll(
      "#laws-table th[aria-sort]:not([aria-sort=none])",
    )) {
      kept.set("sort", `${head.cellIndex}.${head.getAttribute("aria-sort")}`);
    }
    clearTimeout(remember.timer); // browsers refuse to have the address changed at each mouse move
    remember.now = () => history.replaceState(null, "", `#${kept}`);
    remember.timer = setTimeout(remember.now, 300);
  }

  // Tables: sorted by a column, and searched
  const number = (text) => Number.parseFloat(text.replace(/,/g, "").replace("−", "-"));

  function sort(head, direction) {
    const [table, column] = [head.closest("table"), head.cellIndex];
    for (const other of table.tHead.rows[0].cells)
      other.setAttribute("aria-sort", other === head ? direction : "none");
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows].sort((one, other) => {
      const [a, b] = [number(key(one)), number(key(other))];
      if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
      return sign * (Number.isNaN(a) ? key(one).localeCompare(key(other)) : a - b);
    });
    table.tBodies[0].append(...rows);
  }

  function find(box) {
    const table = get(box.dataset.finds);
    const words = box.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    get(`${table.id}-count`).textContent = `${shown} rows`;
  }

  // Colours
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

  function redraw() {
    get("theme").setAttribute("aria-pressed", String(isDark()));
    charts.redraw();
  }

  function listen() {
    for (const name of ["run", "symmetry", "group", "law"]) {
      get(name).addEventListener("change", ({ target }) => {
        const value = name === "run" || name === "group" ? Number(target.value) : target.value;
        choose({ [name]: value });
        if (name === "run") drawFirst(runs[state.run]);
      });
    }
    get("units").addEventListener("change", () => {
      const boxes = [...get("units").querySelectorAll("input")];
      choose({ units: boxes.filter((box) => box.checked).map((box) => Number(box.dataset.unit)) });
    });
    get("choices").addEventListener("submit", (event) => event.preventDefault());
    get("record").addEventListener("input", ({ target }) => point(Number(target.value), true));
    for (const button of document.querySelectorAll(".sortable th button")) {
      button.addEventListener("click", () => {
        const head = button.parentElement;
        sort(head, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
        remember();
      });
    }
    for (const box of document.querySelectorAll("[data-finds]")) {
      box.addEventListener("input", () => {
        find(box);
        remember();
      });
    }
    get("theme").addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem("symrun-theme", root.dataset.theme);
      } catch {
        /* no storage for file:// */
      }
      redraw();
    });
    dark.addEventListener("change", redraw);
    let before;
    addEventListener("beforeprint", () => {
      before = root.dataset.theme;
      root.dataset.theme = "light";
      redraw();
    });
    addEventListener("afterprint", () => {
      before ? (root.dataset.theme = before) : delete root.dataset.theme;
      redraw();
    });
  }

  // A page that `symrun report --serve` sent asks now and then whether its tables are the newest.
  // It loads itself anew by itself only after a pause, since to make a page takes the server a while
  function watch() {
    const reload = () => {
      remember.now?.();
      location.reload();
    };
    get("newer").addEventListener("click", reload);
    setInterval(async () => {
      try {
        const newest = await (await fetch("state", { cache: "no-store" })).text();
        if (newest === root.dataset.state) return;
        get("newer").hidden = false;
        if (performance.now() > 1000 * root.dataset.pause) reload();
      } catch {
        /* the server has ended: the page stays as it is */
      }
    }, 2000);
  }

  function restore() {
    const isPlace = (value) => Number.isInteger(value) && value >= 0;
    const whole = (name) =>
      wanted.has(name) && isPlace(Number(wanted.get(name))) ? Number(wanted.get(name)) : undefined;
    const units = wanted.get("units")?.split(".").filter(Boolean).map(Number) ?? [];
    const places = [...new Set(units.filter(isPlace))];
    choose({
      run: whole("run") ?? 0,
      symmetry: wanted.get("symmetry"),
      group: whole("group"),
      law: wanted.get("law"),
      record: whole("record"),
      ...(places.length || wanted.get("units") === "" ? { units: places } : {}),
    });
    const [column, direction] = (wanted.get("sort") ?? "").split(".");
    const head = get("laws-table").tHead.rows[0].cells.item(Number(column));
    if (column && head && ["ascending", "descending"].includes(direction)) sort(head, direction);
    const box = document.querySelector("[data-finds]");
    if (wanted.has("find")) {
      box.value = wanted.get("find");
      find(box);
    }
  }

  listen();
  redraw();
  if (runs.some((run) => run.groups.length)) {
    restore();
    drawFirst(runs[state.run]);
  } else get("explorer").hidden = true;
  drawTraining(runs);
  if (root.dataset.state) watch();
})();
