"use strict";
// The columns of the table: what each shows, how, and whether it is there without "more columns".
const columns = (() => {
  const number = (id, title, form, best, note, usual = false, spread = null) =>
    ({ id, title, form, best, note, usual, spread, number: true });
  const words = (id, title, note, wide = false) =>
    ({ id, title, form: format.words, best: "ascending", note, usual: false, number: false, wide });
  const all = [
    { ...words("model", "model", "method, ratio, student, variant and bits"), usual: true },
    number("score", "score", format.share, "descending", "mean over seeds ± standard deviation, 0 to 1", true, "score_spread"),
    number("point", "point mIoU", format.share, "descending", "with one point; mean over seeds ± standard deviation", true, "point_spread"),
    number("to_teacher", "Δ teacher", format.points, "descending", "points to the teacher's score under the same conditions", true),
    number("parameters", "parameters", format.count, "ascending", "of the whole model", true),
    number("macs_full", "MACs", format.count, "ascending", "multiply-accumulates, counter full: attention's products included", true),
    number("size_bytes", "file, MB", format.megabytes, "ascending", "of the checkpoint; a million bytes", true),
    number("encoder_latency_ms", "encoder, ms", format.milliseconds, "ascending", "median; holds for the device", true),
    { ...number("seeds", "seeds", format.whole, "descending", "of training; each with its own page", true), links: true },
    number("seed", "seed", String, "ascending", "of the run", true),
    number("images_seen", "images seen", format.whole, "ascending", "in training", true),
    words("data", "data", "data set scored on"),
    words("protocol", "protocol", "prompts and choice of masks"),
    number("point_to_teacher", "Δ teacher, point", format.points, "descending", "points, with one point"),
    number("small", "small", format.share, "descending", "score of small objects"),
    number("medium", "medium", format.share, "descending", "score of medium objects"),
    number("large", "large", format.share, "descending", "score of large objects"),
    number("macs_modules", "MACs, modules", format.count, "ascending", "counter modules: attention's products left out"),
    number("macs_scaled", "MACs × bits", format.count, "ascending", "published: counter full, scaled by bits", true),
    words("teacher", "teacher", "what was compressed"),
    words("student", "student", "name of the model"),
    words("variant", "variant", "the name its runs were given"),
    number("weight_bits", "weight bits", format.whole, "ascending", "of a quantised model"),
    number("activation_bits", "activation bits", format.whole, "ascending", "of a quantised model"),
    number("instances", "instances", format.whole, "descending", "that the score rests on"),
    number("images", "images", format.whole, "descending", "that the score rests on"),
    number("detections", "detections", format.whole, "descending", "boxes that the score rests on"),
    words("choices", "choices", "of the protocol, where rows differ", true),
    words("device", "device", "that everything was measured on", true),
    words("precision", "precision", "of scoring"),
    number("train_seconds", "training, s", format.milliseconds, "ascending", "seconds"),
    words("paper", "paper", "of the method, or where a published figure stands", true),
    words("run", "run", "its name"),
    words("utc", "date", "UTC"),
    words("git_sha", "revision", "of the code"),
    words("torch_version", "PyTorch", "version"),
  ];
  const value = (item, column) => (column.id === "model" ? item.model : item.figures[column.id]) ?? null;

  // The columns to show for some items: those that say something of one.
  function chosen(items, state) {
    const counted = items.some((item) => (item.figures.macs_full ?? null) !== null);
    const mixed = { data: state.data === "", protocol: state.condition === "", macs_modules: !counted };
    return all.filter((column) => column.id === "model" || column.id === "score" ||
      ((column.usual || state.more || mixed[column.id]) && items.some((item) => value(item, column) !== null)));
  }
  function scoreTitle(items) {
    const metrics = new Set(items.filter((item) => item.condition !== null).map((item) => item.metric));
    const boxes = items.every((item) => item.condition === null || (item.protocol ?? "").startsWith("box_point@"));
    if (metrics.size === 2) return "mIoU or AP";
    return metrics.has("ap") ? "AP" : boxes ? "box mIoU" : "mIoU";
  }
  return { all, value, chosen, scoreTitle };
})();
