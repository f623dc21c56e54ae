// Curves of units over updates, in the colours of the page.
const charts = (() => {
  "use strict";
  const drawn = new Set();
  const grouped = (value) => value.toLocaleString("en");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The curves of a group: [units][records] of what was measured, of magnitudes, of each law's miss
  function curvesOf(group) {
    if (!group.decoded) {
      const bytes = Uint8Array.from(atob(group.curves), (sign) => sign.charCodeAt(0));
      const values = new Float32Array(bytes.buffer);
      const [units, records] = [group.units.length, group.steps.length];
      const block = (number) =>
        group.units.map((_, unit) => {
          const start = (number * units + unit) * records;
          return Array.from(values.subarray(start, start + records), (one) =>
            Number.isFinite(one) ? one : null,
          );
        });
      const off = Object.fromEntries(group.laws.map((law, place) => [law, block(2 + place)]));
      group.decoded = { measured: block(0), magnitude: block(1), off };
    }
    return group.decoded;
  }

  const minus = (one, other) =>
    one.map((value, place) =>
      value === null || other[place] === null ? null : value - other[place],
    );

  function axis(extra) {
    return {
      stroke: () => colour("--soft"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: () => colour("--line"), width: 1 },
      ticks: { show: false },
      ...extra,
    };
  }

  function tick(value) {
    const size = Math.abs(value);
    if (value === 0) return "0";
    return size >= 1e5 || size < 1e-3
      ? value.toExponential().replace("e+", "e")
      : String(Number(value.toPrecision(6)));
  }

  function spanned(low, high, reach) {
    if (low === null) return [0, 1];
    const [middle, half] = [(low + high) / 2, Math.max(((high - low) / 2) * 1.06, reach)];
    return half
      ? [middle - half, middle + half]
      : [middle - Math.abs(middle || 1), middle + Math.abs(middle || 1)];
  }

  // What no unit exceeded is drawn so small that it looks like the rounding that it is
  const rounding = (group) => (group.moved ? 0 : 2 * group.rounding);

  // lines: {label, values, colour: a variable, dash, width}; onRecord: told where the pointer is;
  // reach: the least distance from the middle of the vertical axis to its ends
  function chart(host, steps, lines, onRecord, reach = 0) {
    host.chart?.destroy();
    drawn.delete(host.chart);
    host.replaceChildren();
    const series = lines.map((line) => ({
      label: line.label,
      width: line.width ?? 1.5,
      dash: line.dash,
      points: { show: steps.length < 3 },
      stroke: () => colour(line.colour),
      spanGaps: false,
    }));
    const settings = {
      padding: [10, 14, 0, 0],
      pxAlign: 0,
      width: host.clientWidth,
      height: host.clientHeight,
      legend: { show: false },
      scales: { x: { time: false }, y: { range: (_, low, high) => spanned(low, high, reach) } },
      cursor: { points: { size: 6 }, drag: { x: true, y: false }, y: false },
      series: [{}, ...series],
      axes: [
        axis({ values: (_, ticks) => ticks.map((one) => grouped(one)), space: 70, size: 30 }),
        axis({
          values: (_, ticks) => ticks.map(tick),
          size: (_, labels) => 16 + 7 * Math.max(3, ...(labels ?? []).map((one) => one.length)),
        }),
      ],
      hooks: {
        setCursor: [
          (one) => one.cursor.event && one.cursor.idx !== null && onRecord?.(one.cursor.idx),
        ],
      },
    };
    host.chart = new uPlot(settings, [steps, ...lines.map((line) => line.values)], host);
    drawn.add(host.chart);
  }

  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.chart && target.chart.width !== target.clientWidth && target.clientWidth) {
        target.chart.setSize({ width: target.clientWidth, height: target.clientHeight });
      }
    }
  });
  for (const host of document.querySelectorAll(".chart")) resized.observe(host);

  // The lines of some units: what was measured solid, and the law dashed over it
  function linesOf(group, law, places) {
    const { measured, off } = curvesOf(group);
    return places.flatMap((place) => {
      const line = {
        label: `unit ${group.units[place]}`,
        values: measured[place],
        colour: `--u${place % 12}`,
        width: 2,
      };
      if (!off[law]) return [line];
      return [
        line,
        {
          ...line,
          values: minus(measured[place], off[law][place]),
          colour: "--ink",
          dash: [4, 5],
          width: 1.25,
        },
      ];
    });
  }

  function redraw() {
    for (const one of drawn) one.redraw(false);
  }

  return { grouped, curvesOf, linesOf, chart, rounding, redraw };
})();
