// Uploads, the choice of test images and the log-out; everything else is Gradio's.

function show(source) {
  const field = document.querySelector("#source textarea, #source input");
  field.value = source;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  document.querySelector("#tabs button[role=tab]")?.click();
  for (const tile of document.querySelectorAll(".tile")) {
    tile.classList.toggle("shown", tile.dataset.source === source);
  }
}

function say(text) {
  const message = document.getElementById("upload-message");
  if (!message) return;
  message.textContent = text;
  message.hidden = !text;
}

async function send(file) {
  if (!file) return;
  say("Reading the picture …");
  let answer;
  try {
    const response = await fetch("./picture", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    answer = await response.json();
  } catch {
    answer = { message: "The picture could not be sent." };
  }
  say(answer.message ?? "");
  if (answer.source) show(answer.source);
}

document.addEventListener("change", (event) => {
  if (event.target.id !== "picture-file") return;
  send(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("click", (event) => {
  const tile = event.target.closest("[data-source]");
  if (!tile) return;
  say("");
  show(tile.dataset.source);
});
document.addEventListener("paste", (event) => send(event.clipboardData?.files[0]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    const over = kind === "dragenter" || kind === "dragover";
    document.getElementById("drop")?.classList.toggle("over", over);
    if (kind === "drop") send(event.dataTransfer?.files[0]);
  });
}

if (document.querySelector('meta[name="saccade-login"]')) {
  const form = document.createElement("form");
  form.method = "post";
  form.action = "./logout";
  form.className = "logout";
  form.innerHTML = "<button>Log out</button>";
  document.body.append(form);
}
