// check.mjs PACS_URL STUDY_INSTANCE_UID OUT_FOLDER
//
// Opens every SEG and SR series of a study in OHIF (Chromium, headless) as a person does: a double-click on its
// thumbnail, "Yes" to what the viewer asks. Exits 0 only if
//   SEG: each segment is listed by its label;
//   SR:  it is drawn, taken over as annotations, or printed as text: never a black viewport; and where the viewer offers
//        to take measurements over, it does.
// Screenshots and a line for each series go to OUT_FOLDER and standard output.
import { chromium } from 'playwright-core';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { startServer } from './server.mjs';

const [pacs, study, out] = process.argv.slice(2);
const PATIENCE = Number(process.env.PATIENCE || 90) * 1000;
fs.mkdirSync(out, { recursive: true });
const value = (item, tag) => item?.[tag]?.Value?.[0];
const ask = async where => (await fetch(`${pacs}/dicom-web${where}`, { headers: { accept: 'application/dicom+json' } })).json();

const series = [];
for (const each of await ask(`/studies/${study}/series`)) {
  const modality = value(each, '00080060'), uid = value(each, '0020000E');
  if (modality !== 'SEG' && modality !== 'SR') continue;
  const meta = (await ask(`/studies/${study}/series/${uid}/metadata`))[0];
  const labels = (meta['00620002']?.Value || []).filter(s => value(s, '00620004') > 0).map(s => value(s, '00620005'));
  series.push({ modality, uid, number: value(meta, '00200011'), labels });
}
if (!series.length) { console.log(`FAIL study ${study} has no SEG and no SR`); process.exit(1); }

const server = await startServer({ pacs });
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'viewer-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium', headless: true, viewport: { width: 1600, height: 1000 },
  args: ['--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
    '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'],
});
await context.addInitScript(() => { try { localStorage.setItem('shownTours', '["basicViewerTour"]'); } catch { /* blank page */ } });
await context.route(url => url.hostname !== '127.0.0.1' && url.protocol.startsWith('http'), route => route.abort());

const DRAWN = 'svg.svg-layer path, svg.svg-layer line, svg.svg-layer polyline, svg.svg-layer circle, svg.svg-layer ellipse';

async function open(one) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  await page.goto(`http://127.0.0.1:${server.port}/viewer?StudyInstanceUIDs=${study}`);
  const thumbnail = page.locator('[data-cy="study-browser-thumbnail-no-image"]')
    .filter({ hasText: `S:${one.number}` }).filter({ hasText: one.modality }).first();
  await thumbnail.waitFor();
  await page.waitForFunction(() => document.querySelector('[data-cy="viewport-pane"] canvas'));
  await page.waitForTimeout(2000);
  await thumbnail.dblclick();
  return page;
}

async function checkSegmentation(one, page) {
  await page.locator('[data-cy="yes-hydrate-btn"]').first().click();
  await page.waitForFunction(() => window.services.segmentationService.getSegmentations().length > 0);
  await page.locator('[data-cy="panelSegmentation-btn"]').first().click().catch(() => {});
  for (const label of one.labels) await page.getByText(label, { exact: true }).last().waitFor();
  return `${one.labels.length} segments listed`;
}

async function checkReport(one, page) {
  const shown = await page.waitForFunction(selector => {
    const text = document.querySelector('[data-cy="viewport-grid"]')?.innerText || '';
    if (/Measurement Group/.test(text)) return 'printed as text';
    return document.querySelectorAll(selector).length > 0 && 'drawn';
  }, DRAWN).then(handle => handle.jsonValue());
  await page.screenshot({ path: path.join(out, `${one.modality}_${one.number}_opened.png`) });
  const yes = page.getByRole('button', { name: 'Yes', exact: true });
  if (!(await yes.count())) return shown;
  await yes.first().click();
  await page.waitForFunction(() => window.services.measurementService.getMeasurements().length > 0);
  return `${shown}, then ${await page.evaluate(() => window.services.measurementService.getMeasurements().length)} taken over`;
}

let failures = 0;
for (const one of series) {
  let page;
  try {
    page = await open(one);
    const said = await (one.modality === 'SEG' ? checkSegmentation(one, page) : checkReport(one, page));
    console.log(`pass ${one.modality} ${one.number}: ${said}`);
  } catch (error) {
    failures++;
    console.log(`FAIL ${one.modality} ${one.number}: ${String(error).split('\n')[0].slice(0, 200)}`);
  }
  await page?.waitForTimeout(1500).catch(() => {});
  await page?.screenshot({ path: path.join(out, `${one.modality}_${one.number}.png`) }).catch(() => {});
  await page?.close().catch(() => {});
}
await context.close();
await server.close();
fs.rmSync(profile, { recursive: true, force: true });
process.exit(failures ? 1 : 0);
