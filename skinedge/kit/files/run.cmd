@echo off
rem Verify, repeat the golden cases, measure; write result.json.
if not exist "%~dp0venv\Scripts\python.exe" (
  echo error: this kit is not installed yet. Type: "%~dp0install.cmd"
  exit /b 2
)
"%~dp0venv\Scripts\python.exe" -m skinedge.kit.device "%~dp0." %*
